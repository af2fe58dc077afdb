"""Both twins of a class: the pure one, and the compiled one where the core is built (docs/native.md)."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gatelink import _native, handlers


def twins(name: str) -> pytest.MarkDecorator:
    """Run a test with each twin of the class `name`, as its argument of the same name."""
    found: dict[str, Any] = {"pure": _native.pure[name]}
    if core is not None:
        found["native"] = getattr(core, name)
    return pytest.mark.parametrize(name, found.values(), ids=found.keys())


def beside(twin: Any, name: str) -> Any:
    """The class `name` of the core that the class `twin` belongs to."""
    return getattr(core, name) if twin.__module__ == "gatelink._core" else _native.pure[name]


def _core() -> Any:
    try:
        return importlib.import_module("gatelink._core")
    except ImportError:
        return None


core = _core()
"""The compiled core, whether this run uses it or not; None where it is not built."""


built = pytest.mark.skipif(core is None, reason="the compiled core is not built here")
"""What compares the compiled core with pure Python."""


@contextmanager
def turns_of(seconds: float) -> Iterator[None]:
    """Let the handlers of what came together take `seconds` before the rest waits for another turn of the loop.

    A busy machine stops a process for longer than the 5 ms of a turn.
    """
    usual = handlers.TURN_SECONDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "TURN_SECONDS", seconds)
        if core is not None:
            core.set_turn_seconds(seconds)
        try:
            yield
        finally:
            if core is not None:
                core.set_turn_seconds(usual)


def frame(payload: bytes) -> bytes:
    """A whole frame: what an outbox holds says its own length."""
    return len(payload).to_bytes(4, "little") + payload
