"""`gatelink new`: make a small project, which runs at once. Its files are those of src/gatelink/project."""

import keyword
import re
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from gatelink.errors import ConfigError

PLACEHOLDER = "mygame"
"""The name of the project in src/gatelink/project."""

TAKEN = {"gatelink", "web", *sys.stdlib_module_names}
"""Names that lead elsewhere, or to another folder of the project."""

ALLOWED = {".git", ".venv"}
"""What the folder may have before."""


def new(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="The folder to make, as mygame. Its name is the package's.", show_default=False
        ),
    ],
) -> None:
    """Make a small project: a chat with a server, a page for browsers, robots and a test.

    It also runs as a cluster. Its README.md lists the files and the verbs of its Makefile. The folder may be there
    if it is empty, but for .git and .venv.

    Exit status: 0 made, 78 the folder is there and not empty, can't be written, or has no name for a package.
    """
    name = folder.resolve().name
    check_name(name)
    try:
        if folder.is_dir() and (found := sorted({each.name for each in folder.iterdir()} - ALLOWED)):
            raise ConfigError(f"{folder} is not empty, it has {found[0]}; name a folder that is not there yet")
        write(resources.files("gatelink") / "project", folder, name)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}") from None
    print(f"made {name}; go on there: make run, and open http://127.0.0.1:8000/")


def check_name(name: str) -> None:
    """Raises ConfigError for a name that a package can't have."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} can't be a Python package; use a-z, 0-9 and _, a letter first, as in mygame")
    if name in TAKEN:
        raise ConfigError(f"{name!r} is the name of another package; choose one of your own, as mygame")


def write(source: Traversable, folder: Path, name: str) -> None:
    """Copy the project, with its name in its files and in theirs. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in source.iterdir():
        target = folder / each.name.replace(PLACEHOLDER, name)
        if each.is_dir():
            if each.name != "__pycache__":
                write(each, target, name)
        else:
            target.write_text(each.read_text("utf-8").replace(PLACEHOLDER, name), "utf-8")
