"""Find the user's objects by name: `MODULE:NAME`, with the current directory on the path."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import gatelink
from gatelink.calls import contain
from gatelink.errors import ConfigError, LocalError

if TYPE_CHECKING:
    from gatelink.cluster.service import Service
    from gatelink.handlers import Handlers
    from gatelink.settings import ServiceSettings

T = TypeVar("T")


def load(reference: str, kind: type[T]) -> T:
    """The object of class `kind` with the name `reference`, `MODULE:NAME`.

    Raises ConfigError with what was found instead, and what to write.
    """
    found: T = _load(reference, lambda value: isinstance(value, kind), f"a {kind.__name__}", kind.__name__.lower())
    return found


def load_service(reference: str, name: str | None, sections: "Mapping[str, ServiceSettings]", file: Path) -> "Service":
    """The Service with the name `reference`. Its section [services.NAME] of the configuration `file` is in `sections`.

    name: of the section that refers to it; None: the name of the Service. Raises ConfigError if they do not fit.
    """
    from gatelink.cluster.service import Service

    found = load(reference, Service)
    section = sections.get(found.name)
    if section is None:
        there = ", ".join(f"[services.{each}]" for each in sections) or "no services"
        raise ConfigError(
            f"{reference} is the service {found.name!r}, and {file} has no [services.{found.name}]; it has {there}"
        )
    if name not in (None, found.name):
        raise ConfigError(f"{reference} is the service {found.name!r}; its section is [services.{found.name}]")
    if section.type != found.type:
        raise ConfigError(f"services.{found.name}.type is {section.type}, but {reference} has type {found.type}")
    return found


def load_class(reference: str, base: type[T]) -> type[T]:
    """The subclass of `base` with the name `reference`. Raises as `load`."""

    def fits(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, base) and value is not base

    found: type[T] = _load(reference, fits, f"a subclass of {base.__name__}", base.__name__)
    return found


def load_handlers(reference: str) -> "Handlers":
    """The table of handlers with the name `reference`, or that of a server with this name. Raises as `load`."""
    from gatelink.handlers import Handlers
    from gatelink.server import Server

    def fits(value: Any) -> bool:
        return isinstance(value, (Handlers, Server))

    found: Handlers | Server = _load(reference, fits, "a table of handlers or a server", "server")
    return found.handlers if isinstance(found, Server) else found


def _load(reference: str, fits: Callable[[Any], bool], wanted: str, example: str) -> Any:
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{reference!r} is not MODULE:NAME; write it as {_module(reference)}:{example}")
    module = load_module(module_name)
    found: Any = getattr(module, name, None)
    if fits(found):
        return found
    if found is None:
        what = f"module {module_name} has no {name}"
    else:
        what = f"{reference} is {'a class' if isinstance(found, type) else f'a {type(found).__name__}'}, not {wanted}"
    there = [f"{module_name}:{other}" for other, value in vars(module).items() if fits(value)]
    fix = f"it has {', '.join(there)}" if there else f"make {wanted} at its top level"
    raise ConfigError(f"{what}; {fix}")


def load_module(name: str) -> ModuleType:
    """The module called `name`, found in the current directory first.

    Raises ConfigError if there is no such module, or if its import raises. In that case the traceback has been printed.
    """
    if "/" in name or name.startswith("."):
        raise ConfigError(f"no module {name!r}; write {_module(name)}, not a file's path")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except BaseException as error:  # the SystemExit(0) of argparse would look like success
        contain(error)  # raises a signal's KeyboardInterrupt
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            path = name.endswith(".py")
            fix = f"write {_module(name)}, not a file's path" if path else f"looked in {here} and where Python looks"
            raise ConfigError(f"no module {error.name!r}; {fix}") from None
        if isinstance(error, LocalError):  # its text is complete, but for the place
            raise ConfigError(f"{_place(error)}: {error}") from None
        traceback.print_exception(error.with_traceback(_without_importer(error.__traceback__)))
        raise ConfigError(f"module {name} can't be imported: {type(error).__name__}, see above") from None


def _module(path: str) -> str:
    """The module in the file `path`, as an example of how to write it; `mygame.main` if `path` fits no module."""
    module = path.partition(":")[0].removeprefix("./").removesuffix(".py").replace("/", ".")
    return module if all(part.isidentifier() for part in module.split(".")) else "mygame.main"


def _place(error: BaseException) -> str:
    """The file and line, not gatelink's own, that led to `error`."""
    ours = str(Path(gatelink.__file__).parent)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((ours, "<"))
    ]
    return f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}"


def _without_importer(trace: TracebackType | None) -> TracebackType | None:
    """The part of `trace` inside the imported module."""
    while trace is not None and (
        trace.tb_frame.f_globals.get("__name__") in (__name__, "importlib")
        or trace.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        trace = trace.tb_next
    return trace
