"""`gatelink new`: what it refuses, and what it takes."""

import glob
import re
import tomllib
from pathlib import Path

import pytest

from gatelink.cli.new import new
from gatelink.errors import ConfigError
from tests.processes import ROOT

PROJECT = ROOT / "src" / "gatelink" / "project"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-game", "'my-game' can't be a Python package"),
        ("7days", "'7days' can't be a Python package"),
        ("MyGame", "can't be a Python package"),
        ("spiel_für_zwei", "can't be a Python package"),
        ("class", "can't be a Python package"),
        ("a b", "can't be a Python package"),
        ("asyncio", "'asyncio' is the name of another package"),
        ("gatelink", "'gatelink' is the name of another package"),
        ("web", "'web' is the name of another package"),
    ],
)
def test_a_name_that_is_no_package_s_is_refused_and_nothing_is_made(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        new(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_every_file_of_the_project_is_in_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["gatelink"]
    package = ROOT / "src" / "gatelink"
    shipped = {name for each in patterns for name in glob.glob(each, root_dir=package, recursive=True)}
    files = {str(each.relative_to(package)) for each in PROJECT.rglob("*") if each.is_file() and each.suffix != ".pyc"}
    assert files and files <= shipped, f"pyproject.toml leaves out {sorted(files - shipped)}"


def test_a_folder_that_is_not_empty_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "lobby"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty, it has notes"):
        new(folder)
    assert [each.name for each in folder.iterdir()] == ["notes"]


def test_a_path_that_can_t_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "lobby").write_text("")
    with pytest.raises(ConfigError, match="lobby: .*xists"):
        new(tmp_path / "lobby")
    with pytest.raises(ConfigError, match="game: Not a directory"):
        new(tmp_path / "lobby" / "game")


def test_an_environment_and_a_repository_may_be_there_and_the_folder_may_be_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lobby"
    for name in (".git", ".venv"):
        (folder / name).mkdir(parents=True)
    monkeypatch.chdir(folder)
    new(Path("."))
    assert (folder / "lobby" / "server.py").is_file()
