"""How the suite runs: `async def` tests on a watched uvloop loop, and hypothesis' profiles."""

import inspect
import os

import hypothesis
import pytest

from tests.support import run_watched

# `deadline` is a time assertion, which a busy machine fails. CI repeats the same examples every time.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test with `run_watched`; leave every other test to pytest."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    run_watched(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True
