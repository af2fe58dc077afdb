"""How the suite runs: `async def` tests on a watched uvloop loop, hypothesis' profiles, a PostgreSQL to test with."""

import gc
import inspect
import os
from collections.abc import Iterator
from uuid import uuid4

import hypothesis
import pytest
import structlog

from tests.postgres import Postgres, running_postgres
from tests.support import run_watched

# `deadline` and `too_slow` are time assertions, which a busy machine fails. CI repeats the same examples every time.
UNTIMED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("default", UNTIMED)
hypothesis.settings.register_profile("ci", UNTIMED, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


def pytest_collection_finish() -> None:
    """What has been imported by now stays: spare it the full collection at the end of every `async def` test."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Logs go to standard output, whatever a program that an earlier test ran here did to them.

    Tracebacks are plain: drawing one with its local variables stops the loop for a second on a busy machine.
    """
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
    return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, started by the first test that wants it. Whoever stops it starts it again."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """A new, empty database in it: postgresql://..."""
    return postgres.create_database(f"test_{uuid4().hex[:12]}")
