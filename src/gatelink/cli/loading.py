"""Finding the user's objects by name: `MODULE:NAME`, with the current directory on the path."""

import importlib
import os
import sys
from types import ModuleType
from typing import Any, TypeVar

from gatelink.errors import ConfigError

T = TypeVar("T")


def load(reference: str, kind: type[T]) -> T:
    """The object of class `kind` that `reference`, `MODULE:NAME`, names.

    Raises ConfigError saying what was found instead and what to write, and whatever the module itself raises.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{reference!r} is not MODULE:NAME; write it as mygame.main:{kind.__name__.lower()}")
    module = load_module(module_name)
    found: Any = getattr(module, name, None)
    if isinstance(found, kind):
        return found
    if found is None:
        what = f"module {module_name} has no {name}"
    else:
        what = f"{reference} is a {type(found).__name__}, not a {kind.__name__}"
    there = [f"{module_name}:{other}" for other, value in vars(module).items() if isinstance(value, kind)]
    fix = f"it has {', '.join(there)}" if there else f"it has no {kind.__name__} at all; make one at its top level"
    raise ConfigError(f"{what}; {fix}")


def load_module(name: str) -> ModuleType:
    """The module called `name`, looked for in the current directory first.

    Raises ConfigError if there is none, and whatever the module itself raises.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module is there, and imports one that is not
        fix = (
            "write module.name:object, not a path" if "/" in name or name.endswith(".py") else f"looked in {here} first"
        )
        raise ConfigError(f"no module {missing!r}; {fix}") from None
