"""Without the libraries of an extra, each command says which one to install, and still explains itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gatelink.errors import importing
from tests.support import TEST_TIMEOUT

CLUSTER = ("nats",)
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
        (CLUSTER, ("up", "FILE", "--dev"), "engine.url: nats is missing; pip install 'gatelink[cluster]'"),
        (
            CLUSTER,
            ("gateway", "--config", "FILE", "--dev"),
            "engine.url: nats is missing; pip install 'gatelink[cluster]'",
        ),
        (CLUSTER, ("kick", "7", "--config", "FILE"), "engine.url: nats is missing; pip install 'gatelink[cluster]'"),
        (CLUSTER, ("top", "--config", "FILE"), "engine.url: nats is missing; pip install 'gatelink[cluster]'"),
        (
            CLUSTER,
            ("top", "--config", "FILE", "--engine", "nats://127.0.0.1:1"),
            "--engine: nats is missing; pip install 'gatelink[cluster]'",
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
    file = tmp_path / "cluster.toml"
    file.write_text(CONFIG)
    status, said = without(modules, *(str(file) if word == "FILE" else word for word in words))
    assert (status, said.removeprefix("gatelink: ")) == (78, what)


@pytest.mark.parametrize(
    "command", ["up", "gateway", "service", "login", "top", "kick", "sessions", "accounts create", "config check"]
)
def test_help_needs_no_extra(command: str) -> None:
    assert without(CLUSTER + LOGIN, *command.split(), "--help") == (0, "")


IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(%r))
import gatelink
for found in pkgutil.walk_packages(gatelink.__path__, "gatelink.", onerror=lambda name: None):
    if found.name.startswith(("gatelink.__main__", "gatelink.auth.migrations.")):
        continue
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        print(found.name, "|", error)
"""


def test_every_module_that_needs_an_extra_names_it_when_it_is_imported() -> None:
    code = IMPORT_ALL % (CLUSTER + LOGIN,)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TEST_TIMEOUT)
    assert done.returncode == 0, done.stderr
    failed = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    assert failed["gatelink.login.client"] == 'gatelink.login.client needs httpx: pip install "gatelink[client]"'
    assert failed["gatelink.cluster.engines.nats"].endswith('needs nats: pip install "gatelink[cluster]"')
    assert failed["gatelink.auth.signed_tokens"].endswith('needs joserfc: pip install "gatelink[login]"')
    for module, said in failed.items():
        named = r'gatelink\.[a-z_.]+ needs [a-z0-9]+: pip install "gatelink\[(client|cluster|login)\]"'
        assert re.fullmatch(named, said), (module, said)
    assert not any(name.startswith(("gatelink.net", "gatelink.session", "gatelink.robots")) for name in failed)


def test_the_client_of_the_login_service_needs_its_own_extra_alone() -> None:
    others = tuple(name for name in CLUSTER + LOGIN if name != "httpx")
    code = f"import sys\nsys.modules.update(dict.fromkeys({others!r}))\nfrom gatelink.login.client import LoginClient"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TEST_TIMEOUT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_import_of_our_own_modules_is_never_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, importing("gatelink.x", "login"):
        raise ModuleNotFoundError("No module named 'gatelink.typo'", name="gatelink.typo")
    assert "pip install" not in str(caught.value)
