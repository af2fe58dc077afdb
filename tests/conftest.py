"""How the suite runs: `async def` tests on a watched uvloop loop, hypothesis' profiles, a PostgreSQL to test with.

A process of the suite, and each that it starts, may have `OPEN_FILES` open, as far as the hard limit lets it. Hard
limits below 1,024 are unusual. A test that needs more open files than that says so: `@pytest.mark.open_files(2_000)`.
"""

import gc
import inspect
import os
import resource
import signal
from collections.abc import Generator, Iterator
from itertools import count
from uuid import uuid4

import hypothesis
import pytest
import structlog

from tests.postgres import Postgres, running_postgres
from tests.support import run_watched
from tests.twins import turns_of

# `deadline` and `too_slow` are time assertions, which a busy machine fails. CI repeats the same examples every time.
UNTIMED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("default", UNTIMED)
hypothesis.settings.register_profile("ci", UNTIMED, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))

OPEN_FILES = 8_192
"""What a test may ask for."""

ENDLESS = 600.0  # s

_runs = count()
"""Numbers the `async def` tests of this process."""


def pytest_configure(config: pytest.Config) -> None:
    """Raise the soft limit of open files: 1,024 is usual, and some tests need more.

    Take the signals that a shell or `nohup` has us ignore: the processes of the tests would ignore them, too.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)  # a process that is started has the default in place of a function
    config.addinivalue_line("markers", "open_files(count): skip the test if this process may not open so many files")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised(soft, hard, OPEN_FILES), hard))


def _ignore(number: int, frame: object) -> None: ...


def raised(soft: int, hard: int, wanted: int) -> int:
    """The soft limit of open files that comes nearest to `wanted` under `hard`; never less than `soft`."""
    if soft == resource.RLIM_INFINITY:
        return soft
    return max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without collecting garbage: nearly all that is made stays, and each round would look at all of it.

    Afterwards, spare it the full collection at the end of every `async def` test.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def endless_turns() -> Iterator[None]:
    """Messages that arrive together are handled together, however busy the machine is. Tests of turns set their own."""
    with turns_of(ENDLESS):
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs more open files than there may be.

    Logs go to standard output, whatever a program that an earlier test ran here did to them.

    Tracebacks are plain: drawing one with its local variables stops the loop for a second on a busy machine.
    """
    if (mark := item.get_closest_marker("open_files")) is not None:
        needed = mark.args[0]
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < needed:
            pytest.skip(f"needs {needed:,} open files, and the hard limit is {soft:,}; raise it: ulimit -Hn {needed}")
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test with `run_watched`; leave every other test to pytest."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    run_watched(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    if next(_runs) % 50 == 0:
        gc.freeze()  # right after a full collection: spare the next ones the modules that tests have imported
    return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started by the first test that wants it. A test that stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """A new, empty database in it: postgresql://..."""
    return postgres.create_database(f"test_{uuid4().hex[:12]}")
