"""tools/site.py and tools/arguments.py: what the website needs beside the strict build of `make site`."""

import inspect
import tomllib
from pathlib import Path

import gatelink
from tools.arguments import listed
from tools.site import REFERENCE, ROOT, Pages, pages_of


def test_the_reference_has_each_public_name_once() -> None:
    names = [name for names in REFERENCE.values() for name in names]
    assert sorted(names) == sorted(gatelink.__all__)


def test_every_public_name_says_what_it_is() -> None:
    objects = {name: getattr(gatelink, name) for name in gatelink.__all__}
    assert not [name for name, each in objects.items() if callable(each) and not inspect.getdoc(each)]


def test_every_page_is_in_the_navigation_and_leads_to_pages(tmp_path: Path) -> None:
    places = Pages(tmp_path, "").write()
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    assert pages_of(config["project"]["nav"]) == places
    text = (tmp_path / "index.md").read_text()
    assert "[CONTRIBUTING](contributing.md)" in text and "](../" not in text
    vectors = (tmp_path / "vectors/README.md").read_text()
    assert "](../protocol.md#" in vectors and "make_extension.py" in vectors, "from a folder the way is longer"
    assert "make_extension.py)" not in vectors, "without a repository a file of the source is no link"


def test_files_of_the_source_lead_to_the_repository(tmp_path: Path) -> None:
    Pages(tmp_path, "https://git.example.com/blob/main/").write()
    assert "](https://git.example.com/blob/main/src/gatelink/server.py)" in (tmp_path / "architecture.md").read_text()


def test_links_in_code_stay_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](https://example.com) [b](#here)\n```\n[c](../src/x.py)\n```\n")
    assert Pages(tmp_path, "").linked(page, "page.md") == page.read_text()


def test_what_is_said_of_arguments_becomes_a_list() -> None:
    text = "Do it.\n\nfast: whether soon. size, count: of what\nis done. Raises: not an argument.\n\nEnd."
    assert listed(text, ["fast", "size", "count"]) == (
        "Do it.\n\n- **fast**: whether soon.\n- **size, count**: of what is done. Raises: not an argument.\n\nEnd."
    )
    assert listed(text, []) == listed(text, ["other"]) == text
