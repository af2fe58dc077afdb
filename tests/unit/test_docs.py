"""The pages say what is: their code is the examples', their links lead somewhere, their tables are complete."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs import draw_states
from gatelink import CloseCode, Limits, WireOptions

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
LIMITS = ROOT / "docs" / "limits.md"
PROMISES = ROOT / "docs" / "promises.md"

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def targets(page: Path, text: str) -> Iterator[tuple[str, Path, str]]:
    """(as written, the file, the heading) of every link in `text` that stays in the repository."""
    for path, anchor in LINK.findall(CODE.sub("", text)):
        if not path.startswith(("http:", "https:", "mailto:")):
            yield path, (page.parent / path).resolve() if path else page, anchor


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the usual renderers make them."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@every_page
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    for written, file, anchor in targets(page, page.read_text()):
        assert file.exists(), f"{name(page)} links {written}, which is not there"
        assert file.is_relative_to(ROOT), f"{name(page)} links {written}, which is not in the repository"
        if anchor:
            assert anchor in headings(file), f"{name(page)} links #{anchor}; {name(file)} has no such heading"


# -- names of the source --

NAMED_LINK = re.compile(r"\[`([A-Za-z_][\w.]*)`\]\(([^)#\s]+\.py)\)")
"""A link that is a name: [`Name`](file.py)."""

NAME_BEFORE_LINK = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`,?(?:\s+(?:in|of))?\s+\(?\[[^\]`]*\]\(([^)#\s]+\.py)\)")
"""A name right before the link to its file: `Name` ([folder/file.py](file.py)), `Name` in [file.py](file.py)."""


@cache
def defined_in(file: Path) -> frozenset[str]:
    """The names that a module defines, and `Class.member` for the members of its classes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        names |= bound_by(node)
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                names |= {f"{node.name}.{member}" for member in bound_by(part)}
    return frozenset(names)


def bound_by(node: ast.AST) -> set[str]:
    """The names that one statement defines, on its module, class or `self`."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target for part in targets for target in assigned(part)}
        case ast.AnnAssign(target=target):
            return set(assigned(target))
        case _:
            return set()


def assigned(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
            yield name
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from assigned(part)


def names_beside_links(page: Path, text: str) -> Iterator[tuple[str, Path]]:
    """(name, file) for each name in `text` that is a link to a Python file, or stands right before one."""
    for pattern in (NAMED_LINK, NAME_BEFORE_LINK):
        for symbol, path in pattern.findall(CODE.sub("", text)):
            file = (page.parent / path).resolve()
            if file.is_relative_to(ROOT / "src") and (symbol[0].isupper() or "." not in symbol):
                yield symbol, file  # not `engine.stats`, which says what an object has


def misplaced_names(page: Path, text: str) -> list[str]:
    return [
        f"{symbol} is not defined in {name(file)}"
        for symbol, file in names_beside_links(page, text)
        if symbol not in defined_in(file)
    ]


@every_page
def test_every_name_beside_a_link_is_defined_in_the_linked_file(page: Path) -> None:
    assert not misplaced_names(page, page.read_text()), f"{name(page)}: name the file that defines it"


@pytest.mark.parametrize(
    "text",
    [
        "[`Admission`](src/gatelink/net/listener.py)",
        "`Admission` of [net/listener.py](src/gatelink/net/listener.py)",
        "`FrameDecoder.seal`\n  ([wire/frames.py](src/gatelink/wire/frames.py))",
        "`Handlers` in [calls.py](src/gatelink/calls.py)",
        "[`Session.receive`](src/gatelink/session/stream.py)",
    ],
)
def test_a_name_beside_the_wrong_file_is_found(text: str) -> None:
    assert misplaced_names(ROOT / "README.md", text)


def test_every_heading_of_the_tour_links_the_code_that_it_is_about() -> None:
    tour = re.search(r"^## A tour\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert tour is not None, "README.md has no tour"
    sections = re.split(r"^### ", tour[1], flags=re.MULTILINE)[1:]
    assert len(sections) >= 15
    for section in sections:
        assert NAMED_LINK.search(section), f"the tour's section has no [`Name`](file.py):\n{section}"


def test_the_page_of_states_is_drawn_from_the_tables() -> None:
    assert draw_states.PAGE.read_text() == draw_states.page(), "run python docs/draw_states.py"


def test_every_extra_that_a_page_or_an_error_names_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        for named in re.findall(r"(?:gatelink|'\.)\[([a-z, ]+)\]", file.read_text()):
            missing = {extra.strip() for extra in named.split(",")} - set(extras)
            assert not missing, f"{name(file)} names the extra {missing}; pyproject.toml has {', '.join(extras)}"


ARCHITECTURE = ROOT / "docs" / "architecture.md"

LONG = 500
"""Lines of a source file, over which a reason stands in docs/architecture.md."""


def section(page: Path, title: str) -> str:
    """The text under one heading of a page, up to the next of its level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name(page)} has no section {title!r}"
    return found[1]


def test_every_long_file_has_its_reason() -> None:
    listed = {file for _, file, _ in targets(ARCHITECTURE, section(ARCHITECTURE, "Long files"))}
    long = {path for path in (ROOT / "src").rglob("*.py") if len(path.read_text().splitlines()) > LONG}
    assert long <= listed, f"say in {name(ARCHITECTURE)} why these are one concept: {sorted(map(name, long - listed))}"


def test_the_compiled_cut_has_the_names_that_the_source_has() -> None:
    cut = [row for row in section(ARCHITECTURE, "The compiled cut").splitlines() if row.startswith("| [")]
    assert len(cut) >= 9
    for row in cut:
        classes, members = row.strip("|").split("|")
        there = {
            full.removeprefix(f"{owner}.")
            for owner, file in names_beside_links(ARCHITECTURE, classes)
            for full in defined_in(file)
            if full.startswith(f"{owner}.")
        }
        missing = set(re.findall(r"`(\w+)`", members)) - there
        assert not missing, f"{classes.strip()} has no {missing}; the native core needs the source's names"


@every_page
def test_no_page_names_a_place_on_one_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w./$-])/(?:home|root|work|Users|mnt)/\S*", page.read_text())
    assert not found, f"{name(page)} names {', '.join(found)}; write paths from the repository's root"


PAGES_OF_PIECES = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "porting.md"]
"""Pages whose Python is of examples."""


@pytest.mark.parametrize("page", PAGES_OF_PIECES, ids=name)
def test_code_is_a_piece_of_the_example_linked_above_it(page: Path) -> None:
    text = page.read_text()
    for block in CODE.finditer(text):
        above = [file for _, file, _ in targets(page, text[: block.start()]) if file.suffix == ".py"]
        assert above, f"{name(page)}: code with no link to its file above it:\n{block[1]}"
        assert (ROOT / "examples") in above[-1].parents, f"{name(page)}: {name(above[-1])} is no example:\n{block[1]}"
        assert f"\n{block[1]}" in f"\n{above[-1].read_text()}", f"{name(page)}: not in {name(above[-1])}:\n{block[1]}"


def test_the_readme_has_all_of_hello() -> None:
    text = (ROOT / "README.md").read_text()
    for file in ("server", "client"):
        assert (ROOT / f"examples/hello/{file}.py").read_text() in [block[1] for block in CODE.finditer(text)]


# -- docs/limits.md --


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of every table row, without backticks around the first."""
    for line in page.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield [cells[0].strip("`"), *cells[1:]]


def shown(value: Any) -> str:
    """A default as the table writes it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case bytes():
            return value.hex()
        case tuple():
            return ", ".join(map(str, value))
    raise AssertionError(f"how is {value!r} written in {name(LIMITS)}? shown() must know")


@pytest.mark.parametrize(
    ("settings", "field"),
    [(settings, field.name) for settings in (Limits, WireOptions) for field in msgspec.structs.fields(settings)],
)
def test_every_setting_is_documented_with_its_default(settings: type[Limits | WireOptions], field: str) -> None:
    found = [row for row in rows(LIMITS) if row[0] == field]
    assert len(found) == 1, f"{name(LIMITS)} has {len(found)} rows of {field}; it needs one"
    assert found[0][1] == shown(getattr(settings(), field))
    assert len(found[0]) == 5 and found[0][3] and found[0][4], f"{field} needs what happens at it, and why"


def test_no_setting_is_documented_that_is_not_there() -> None:
    there = {field.name for settings in (Limits, WireOptions) for field in msgspec.structs.fields(settings)}
    documented = {row[0] for row in rows(LIMITS) if len(row) == 5} - {"setting"}
    assert documented == there


def test_every_close_code_is_documented() -> None:
    documented = {row[0]: row[1] for row in rows(LIMITS) if row[0].isdigit()}
    assert documented == {f"{code:d}": code.label for code in CloseCode}


def test_every_reason_of_a_refusal_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "gatelink" / "net").glob("*.py"))
    calls = re.findall(r"(?:refuse\(|refused\[|reason = )(.*)", source)
    used = {reason for call in calls for reason in re.findall(r'"([a-z]+(?:-[a-z]+)*)"', call)}
    assert {"server-full", "verify-failed", "left-unverified", "frame-too-large"} <= used
    documented = {row[0] for row in rows(LIMITS) if len(row) == 2} - {"reason"}
    assert documented == used


# -- the tests that pages name --


@pytest.mark.parametrize("page", [PROMISES, ROOT / "docs" / "threat-model.md"], ids=name)
def test_every_test_that_a_page_names_is_in_the_linked_file(page: Path) -> None:
    items = re.findall(r"^- (.*?)(?=^- |^$|\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    named = 0
    for item in items:
        for test in re.findall(r"`(test_\w+)`", item):
            named += 1
            _, file, _ = next(targets(page, item))
            assert re.search(rf"^(?:async )?def {test}\(", file.read_text(), re.MULTILINE), (
                f"{name(file)} has no {test}"
            )
    assert named > 20
