"""How the source holds together: no import circle, no private name of another module, no way around the types."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
PACKAGE = SOURCE / "gatelink"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = SOURCE.parent / "tests"

LIBRARY_PRIVATES = {
    "cluster/engines/nats_client.py",
    "ops/http.py",
}
"""The modules that may use a private name of a library. Each has an upper bound of its version in pyproject.toml."""

DOCUMENTED = {"os._exit", "sys._current_frames"}
"""Names of Python's own that begin with _ and are documented."""


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The modules of gatelink that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found = full if full in MODULES else node.module
                if found in MODULES:
                    yield found


def test_no_module_imports_itself_through_others() -> None:
    """For the type checker alone counts, too: a circle there is a circle in a reader's head."""
    graph = {name: set(imports_of(ast.parse(path.read_text()))) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("an import circle: " + " -> ".join(error.args[1]))


def own_names(tree: ast.AST) -> set[str]:
    """The private names that a module defines, or that its classes have."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=attr):
                names.add(attr)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Constant(value=str(text)):
                names.add(text)  # a slot
    return names


def foreign_privates(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    own = own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, attr=attr) if attr.startswith("_") and not attr.startswith("__"):
                if (
                    not (isinstance(value, ast.Name) and value.id in ("self", "cls"))
                    and attr not in own
                    and ast.unparse(node) not in DOCUMENTED
                ):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
            case ast.ImportFrom(names=names, module=module):
                for alias in names:
                    if alias.name.startswith("_") and not alias.name.startswith("__") and module != "gatelink":
                        yield f"{path.relative_to(PACKAGE)}:{node.lineno} from {module} import {alias.name}"


def test_no_module_uses_a_private_name_of_another() -> None:
    found = [
        line
        for path in FILES
        if str(path.relative_to(PACKAGE)) not in LIBRARY_PRIVATES
        for line in foreign_privates(path)
    ]
    assert not found, "private names of other modules:\n" + "\n".join(found)


def test_no_cast_goes_around_the_types() -> None:
    """`assert isinstance` and `getattr` with a name that is known hide from mypy what a type would say."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Assert(test=ast.Call(func=ast.Name(id="isinstance"))):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} assert isinstance")
                case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                    if not name.startswith("__"):  # of Python's own objects
                        found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} getattr of {name!r}")
    assert not found, "\n".join(found)


def test_sentences_and_names_of_tests_name_their_subject() -> None:
    """ "The client that is late", not "who is late": a noun for each pronoun."""
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in [*FILES, *sorted((PACKAGE / "native").glob("*.pxi"))]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(who|whoever)\b", line, re.IGNORECASE) and '"=who"' not in line  # a word of a subject
    ]
    for path in sorted(TESTS.rglob("test_*.py")):
        found += re.findall(r"def (test_(?:\w+_)?who(?:ever)?_\w+)", path.read_text())
    assert not found, "say what it is:\n" + "\n".join(found)
