"""The choice between the compiled core and pure Python: the only place that makes it.

`gatelink._core` is compiled from Cython. It has twins, under the same names, of the classes and functions that each
message passes. In Python, each of these is defined below `@compiled`. The environment variable GATELINK_NATIVE chooses
once, when gatelink is imported:

- `auto`, the default: the compiled core, if it was built from the sources beside it
- `0`: pure Python
- `1`: the compiled core; without it the import fails
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gatelink import _sources

VARIABLE = "GATELINK_NATIVE"

_T = TypeVar("_T", bound=Callable[..., Any])


def load(wanted: str) -> tuple[ModuleType | None, str]:
    """The compiled core; or None, and why it is not used. wanted: the value of GATELINK_NATIVE.

    Where the core's sources are installed, as in a clone, a core that was built from others is not used. Raises
    ImportError if the core is wanted and can't be used, and for any other value.
    """
    if wanted not in ("", "auto", "0", "1"):
        raise ImportError(f"{VARIABLE}={wanted}: give 0 (pure Python), 1 (the compiled core) or auto")
    if wanted == "0":
        return None, f"{VARIABLE}=0"
    cause = None
    if not (reason := _why_outdated()):
        try:
            return importlib.import_module("gatelink._core"), ""
        except ImportError as error:
            cause = error
            is_built = not isinstance(error, ModuleNotFoundError)
            reason = f"it does not load: {error}" if is_built else "it was not built (docs/native.md)"
    if wanted == "1":
        raise ImportError(f"{VARIABLE}=1, but there is no compiled core: {reason}") from cause
    return None, reason


def _why_outdated() -> str:
    """Why the compiled core does not belong to the sources beside it; "" if it does, or if either is missing."""
    package = Path(__file__).parent
    try:
        found = importlib.util.find_spec("gatelink._core")
    except ValueError:  # it is in sys.modules without a spec
        found = None
    if found is None or not found.origin:
        return ""
    try:
        sources = _sources.digest(package)
        if not sources or _sources.is_built_from(Path(found.origin), sources):
            return ""
    except OSError as error:
        return f"it can't be compared with its sources: {error}"
    command = f"{VARIABLE}=1 {sys.executable} -m pip install -e {package.parents[1]}"
    return f"it was built from other sources than those in {package}; build it again: {command}"


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
