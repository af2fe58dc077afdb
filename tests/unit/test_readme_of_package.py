"""setup.py: the readme of the package has whole links where the environment names the repository."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def built(monkeypatch: pytest.MonkeyPatch, repository: str) -> str:
    """The readme that a build with this GATELINK_REPOSITORY has."""
    said: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", said.update)
    monkeypatch.setenv("GATELINK_REPOSITORY", repository)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return str(said["long_description"])


def test_without_a_repository_the_readme_is_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(monkeypatch, "") == README


@pytest.mark.parametrize("slash", ["", "/"])
def test_with_a_repository_each_link_to_a_file_leads_there(monkeypatch: pytest.MonkeyPatch, slash: str) -> None:
    text = built(monkeypatch, f"https://git.example.com/gatelink/blob/main{slash}")
    assert "(https://git.example.com/gatelink/blob/main/docs/guide.md)" in text
    assert "(https://git.example.com/gatelink/raw/main/docs/pictures/demo.svg)" in text, "a picture, not its page"
    assert "(#where-to-go-on)" in text, "a heading of the readme itself"
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert len(links) > 40 and all(re.match(r"https://git\.example\.com/gatelink/|#", link) for link in links)
    assert re.sub(r"https://git\.example\.com/gatelink/(blob|raw)/main/", "", text) == README
