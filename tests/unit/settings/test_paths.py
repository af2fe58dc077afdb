"""A configuration in a folder of any name: every path and URL that is made of it names that folder."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from gatelink.auth import migrations
from gatelink.auth.accounts import Accounts
from gatelink.auth.database import Database, parse_url
from gatelink.settings import account_url, load
from gatelink.settings.show import show

NASTY = [
    "josé",
    "游戏",
    "emoji😀",
    "with space",
    " edges ",
    "per%cent",
    "%41%2F%%",
    "question?mark=1&uri=true",
    "hash#tag",
    'quo"te',
    "it's",
    "back\\slash",
    "dollar$HOME",
    "{brace}",
    "new\nline",
    "tab\t",
    "colon:8080",
    "at@host",
    "[bracket",
    "file:x",
    "*",
    "-dash",
    "\udcff\udcfe",  # not UTF-8
]
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) <= 200
)

CONFIGURATION = """\
[engine]
data = "engine"
[accounts]
url = "sqlite:///accounts.db"
[accounts.argon2]
time_cost = 1
memory_kib = 8
[login]
methods = ["password", "oidc"]
[login.oidc]
issuer = "https://accounts.example.com"
audience = "game"
jwks = "keys.json"
[gateway]
listen = [{ endpoint = "tls://127.0.0.1:0", certificate = "tls.pem" }]
keys = ["file:gateway.key"]
"""

each_name = pytest.mark.parametrize("name", NASTY, ids=ascii)


@contextmanager
def folder_called(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / name
        folder.mkdir()
        (folder / "cluster.toml").write_text(CONFIGURATION)
        yield folder


def check_paths(folder: Path) -> None:
    settings = load(folder / "cluster.toml")
    assert settings.engine.data == folder / "engine"
    assert parse_url(account_url(settings.accounts)).database == str(folder / "accounts.db")
    assert settings.login is not None and settings.login.oidc is not None and settings.gateway is not None
    assert settings.login.oidc.jwks == str(folder / "keys.json")
    assert settings.gateway.listen[0].certificate == folder / "tls.pem"


@each_name
def test_what_a_configuration_names_is_in_its_folder_whatever_that_is_called(name: str) -> None:
    with folder_called(name) as folder:
        check_paths(folder)


@given(names)
def test_what_a_configuration_names_is_in_a_folder_of_any_name(name: str) -> None:
    with folder_called(name) as folder:
        check_paths(folder)


@given(names)
def test_a_configuration_that_is_shown_reads_back_as_the_same_from_any_folder(name: str) -> None:
    with folder_called(name) as folder:
        settings = load(folder / "cluster.toml")
        (folder / "shown.toml").write_text(show(settings), encoding="utf-8")
        assert load(folder / "shown.toml") == settings


@each_name
async def test_accounts_are_made_in_a_folder_of_any_name_and_nowhere_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may also be named from the current one."""
    with folder_called(name) as folder:
        for given_path in (folder / "cluster.toml", Path(name) / "cluster.toml"):
            monkeypatch.chdir(folder.parent)
            async with Accounts(account_url(load(given_path).accounts), upgrade=True) as accounts:
                await accounts.create(f"anna{len(str(given_path))}", "correct horse")
        assert {path.name for path in folder.iterdir()} >= {"accounts.db", "cluster.toml"}
        assert os.listdir(folder.parent) == [name]
        with closing(sqlite3.connect(folder / "accounts.db")) as database:
            assert database.execute("SELECT count(*) FROM gatelink_accounts").fetchone() == (2,)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////srv/a%3Fb%25c%23.db", "/srv/a?b%c#.db"),
        ("sqlite:////srv/100%/a.db", "/srv/100%/a.db"),
        ("sqlite:////srv/a#b.db?timeout=3", "/srv/a#b.db"),
    ],
)
def test_the_path_of_a_database_has_the_escapes_of_a_url(url: str, path: str) -> None:
    assert parse_url(url).database == path


@each_name
async def test_migrations_are_found_in_an_environment_of_any_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with folder_called(name) as folder:
        (folder / "migrations").symlink_to(Path(migrations.__file__).parent)
        monkeypatch.setattr(migrations, "__file__", str(folder / "migrations" / "__init__.py"))
        before, after = await migrations.migrate(f"sqlite:///{tmp_path}/accounts.db")
        assert (before, after) == (None, migrations.scripts().get_current_head())
    database = Database(f"sqlite:///{tmp_path}/accounts.db")
    try:
        assert await database.first(text("SELECT count(*) FROM gatelink_accounts")) == (0,)
    finally:
        await database.close()
