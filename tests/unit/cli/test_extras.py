"""Without the libraries of an extra, each command says which one to install, and explains itself all the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import TEST_TIMEOUT

GROUP = ("nats",)
LOGIN = ("sqlalchemy", "alembic", "aiosqlite", "argon2", "joserfc", "litestar", "httpx")
CONFIG = """
[login]
[gateway]
[services.lobby]
type = 11
run = "lobby:service"
"""


def without(modules: tuple[str, ...], *words: str) -> tuple[int, str]:
    """The exit status, and the last line on standard error, of `gatelink WORDS` where those modules are missing."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\nfrom gatelink.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=TEST_TIMEOUT)
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("modules", "words", "what"),
    [
        (GROUP, ("up", "FILE", "--dev"), "engine.url: nats is missing; pip install 'gatelink[group]'"),
        (GROUP, ("gateway", "--config", "FILE", "--dev"), "engine.url: nats is missing; pip install 'gatelink[group]'"),
        (GROUP, ("top", "--config", "FILE"), "engine.url: nats is missing; pip install 'gatelink[group]'"),
        (
            GROUP,
            ("top", "--config", "FILE", "--engine", "nats://127.0.0.1:1"),
            "--engine: nats is missing; pip install 'gatelink[group]'",
        ),
        (LOGIN, ("login", "--dev"), "login: sqlalchemy is missing; pip install 'gatelink[login]'"),
        (
            LOGIN,
            ("accounts", "migrate", "sqlite:///a.db"),
            "accounts: alembic is missing; pip install 'gatelink[login]'",
        ),
        (
            ("asyncpg",),
            ("accounts", "create", "postgresql://game@127.0.0.1:1/game", "bob"),
            "accounts in postgresql+asyncpg://game@127.0.0.1:1/game: asyncpg is missing; "
            "pip install 'gatelink[login,postgres]'",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_missing_is_named_with_its_extra(
    modules: tuple[str, ...], words: tuple[str, ...], what: str, tmp_path: Path
) -> None:
    file = tmp_path / "group.toml"
    file.write_text(CONFIG)
    status, said = without(modules, *(str(file) if word == "FILE" else word for word in words))
    assert (status, said.removeprefix("gatelink: ")) == (2, what)


@pytest.mark.parametrize("command", ["up", "gateway", "service", "login", "top", "accounts create", "config check"])
def test_help_needs_no_extra(command: str) -> None:
    assert without(GROUP + LOGIN, *command.split(), "--help") == (0, "")
