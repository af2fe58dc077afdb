"""`MODULE:NAME` on the command line: what is found, and what is said when it is not."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatelink import ConfigError, Server
from gatelink.cli.loading import load, load_module, load_service
from gatelink.settings import ServiceSettings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(here: Path, name: str, text: str) -> None:
    (here / f"{name}.py").write_text(text)


def test_an_object_is_found_in_the_current_directory(here: Path) -> None:
    write(here, "loading_a", "from gatelink import Server, StaticTokens\ngame = Server(tokens=StaticTokens())")
    assert isinstance(load("loading_a:game", Server), Server)


@pytest.mark.parametrize(
    ("reference", "fix"),
    [
        ("", "mygame.main:server"),
        (":server", "mygame.main:server"),
        ("../game.py", "mygame.main:server"),
        ("loading_a", "loading_a:server"),
        ("loading_a:", "loading_a:server"),
        ("game/loading_a.py", "game.loading_a:server"),
    ],
)
def test_a_reference_that_is_none_is_refused_with_how_it_is_written(reference: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"is not MODULE:NAME; write it as {re.escape(fix)}$"):
        load(reference, Server)


def test_a_module_that_is_not_there_is_named_with_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(ConfigError, match=f"no module 'loading_none'; looked in {here} "):
        load("loading_none.main:server", Server)


@pytest.mark.parametrize(
    ("reference", "fix"),
    [
        ("loading_b.py:server", "loading_b"),
        ("./loading_b.py:server", "loading_b"),
        ("game/loading_b.py:server", "game.loading_b"),
        (".loading_b:server", "mygame.main"),
        ("/srv/loading_b.py:server", "mygame.main"),
    ],
)
def test_a_path_is_refused_with_what_to_write_instead(reference: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"; write {re.escape(fix)}, not a file's path"):
        load(reference, Server)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(here: Path) -> None:
    write(here, "loading_c", "from gatelink import Server, StaticTokens\ngame = Server(tokens=StaticTokens())")
    with pytest.raises(ConfigError, match="module loading_c has no server; it has loading_c:game"):
        load("loading_c:server", Server)


def test_an_object_of_another_class_is_named_with_its_class(here: Path) -> None:
    write(here, "loading_d", "def server(): pass")
    with pytest.raises(
        ConfigError, match="loading_d:server is a function, not a Server; make a Server at its top level"
    ):
        load("loading_d:server", Server)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("raise ValueError('mine')", "ValueError: mine"),
        ("import loading_nothing", "No module named 'loading_nothing'"),
        ("raise SystemExit", "SystemExit"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise __import__('asyncio').CancelledError", "asyncio.exceptions.CancelledError"),
    ],
)
def test_a_module_that_raises_shows_its_own_traceback_and_nothing_of_ours(
    text: str, last: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here, "loading_e", f"\n{text}\n")
    with pytest.raises(ConfigError, match="module loading_e can't be imported"):
        load_module("loading_e")
    shown = capsys.readouterr().err.splitlines()
    assert shown[1] == f'  File "{here / "loading_e.py"}", line 2, in <module>'
    assert shown[-1].endswith(last) and len(shown) == 4


def test_a_module_that_uses_gatelink_wrongly_is_told_in_one_line_where(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here, "loading_g", "from gatelink import message\n\n\n@message(150)\nclass Say: ...\n")
    with pytest.raises(ConfigError, match=r"^loading_g.py:4: Say can't have id 150: 100 to 199 are the framework's"):
        load_module("loading_g")
    assert not capsys.readouterr().err


def test_a_syntax_error_shows_its_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here, "loading_f", "server = (")
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_module("loading_f")
    assert f'File "{here / "loading_f.py"}", line 1' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "there"), [(["lobbyy", "room"], "[services.lobbyy], [services.room]"), ([], "no services")]
)
def test_a_service_without_a_section_is_named_with_the_sections_that_are_there(
    here: Path, names: list[str], there: str
) -> None:
    write(here, "loading_s", "from gatelink import Service\nlobby = Service('lobby', type=21)")
    sections = {name: ServiceSettings(type=21, run="loading_s:lobby") for name in names}
    words = f"loading_s:lobby is the service 'lobby', and c.toml has no [services.lobby]; it has {there}"
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        load_service("loading_s:lobby", None, sections, Path("c.toml"))
