"""The pages say what is: their code is the examples', their links lead somewhere, their tables are complete."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

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


# -- docs/promises.md --


def test_every_test_that_a_promise_names_is_there() -> None:
    items = re.findall(r"^- (.*?)(?=^- |^$|\Z)", PROMISES.read_text(), re.MULTILINE | re.DOTALL)
    named = 0
    for item in items:
        for test in re.findall(r"`(test_\w+)`", item):
            named += 1
            _, file, _ = next(targets(PROMISES, item))
            assert re.search(rf"^(?:async )?def {test}\(", file.read_text(), re.MULTILINE), (
                f"{name(file)} has no {test}"
            )
    assert named > 20
