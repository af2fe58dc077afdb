"""The choice between the compiled core and pure Python: the only place that makes it.

`gatelink._core` is compiled from Cython. It has twins, under the same names, of the classes that each message passes.
Such a class, or function, is defined below `@compiled`. GATELINK_NATIVE says which of the two is used: `0`, the
default, the pure ones, `1` the compiled ones (without them the import fails), `auto` the compiled ones if they are
there. This is decided once, when gatelink is imported.
"""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

VARIABLE = "GATELINK_NATIVE"

_T = TypeVar("_T", bound=Callable[..., Any])


def load(wanted: str) -> tuple[ModuleType | None, str]:
    """The compiled core; or None, and why it is not used. wanted: the value of GATELINK_NATIVE.

    Raises ImportError if the core is wanted and can't be loaded, and for any other value.
    """
    if wanted not in ("", "auto", "0", "1"):
        raise ImportError(f"{VARIABLE}={wanted}: give 0 (pure Python), 1 (the compiled core) or auto")
    if wanted in ("", "0"):
        return None, f"{VARIABLE}=0" if wanted else f"{VARIABLE} is not set"
    try:
        return importlib.import_module("gatelink._core"), ""
    except ImportError as error:
        is_built = not isinstance(error, ModuleNotFoundError)
        reason = f"it does not load: {error}" if is_built else "it was not built (docs/native.md)"
        if wanted == "1":
            raise ImportError(f"{VARIABLE}=1, but there is no compiled core: {reason}") from error
        return None, reason


core, why_not = load(os.environ.get(VARIABLE, ""))
"""The compiled core, or None; and why it is not used."""

pure: dict[str, Any] = {}
"""The pure classes and functions by name, whichever are used: the core falls back on some, and tests compare both."""


def compiled(own: _T) -> _T:
    """Decorator of a class or function: its twin in the compiled core, if that is used; else itself."""
    pure[own.__name__] = own
    if core is None:
        return own
    twin: _T = getattr(core, own.__name__)
    return twin


def description() -> str:
    """Which core runs, for people: "native" or "pure Python (why)"."""
    return "native" if core is not None else f"pure Python ({why_not})"
