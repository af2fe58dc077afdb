"""`gatelink config`: what it prints, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatelink import ConfigError
from gatelink.cli import app
from gatelink.settings import load
from gatelink.settings.secret import DEV_SECRET

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "config"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)])


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEV_SECRET, "seed")
    monkeypatch.delenv("GATELINK_GROUP_KEY", raising=False)


@pytest.mark.parametrize("example", ["minimal", "complete"])
def test_the_examples_are_good(example: str) -> None:
    result = run("check", EXAMPLES / f"{example}.toml", "--dev")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{EXAMPLES}/{example}.toml: OK: group ")
    assert "lobby x" in result.stdout


def test_the_complete_example_has_every_section_and_is_good_with_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_PASSWORD", "ACCOUNTS_PASSWORD", "GROUP_KEY", "GATEWAY_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef" * 4)
    file = EXAMPLES / "complete.toml"
    assert run("check", file).exit_code == 0
    settings = load(file)
    assert all(getattr(settings, name) != getattr(type(settings)(), name) for name in type(settings).__struct_fields__
               if name != "tokens")  # fmt: skip


def test_a_bad_file_has_all_its_errors_shown(tmp_path: Path) -> None:
    file = tmp_path / "group.toml"
    file.write_text('[engine]\nurk = "memory"\n[tokens]\nkind = 3\n')
    result = run("check", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [f"{file}:2", f"{file}:4"]


def test_missing_secrets_are_errors_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "group.toml"
    file.write_text('[tokens]\nkind = "signed"\nsigning_keys = ["file:no"]\n[gateway]\nkeys = ["env:GATELINK_NO"]\n')
    result = run("check", file)
    assert result.exit_code == 1
    for text in (":3: tokens.signing_keys[0]: file:no", ":1: group.key: env:", ":5: gateway.keys[0]: env:GATELINK_NO"):
        assert f"{file}{text}" in result.stderr
    assert run("check", file, "--dev").exit_code == 0


def test_the_public_keys_of_a_login_that_signs_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_SIGNING_KEY", "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    file = tmp_path / "group.toml"
    file.write_text('[tokens]\nkind = "signed"\n[login]\n')
    result = run("check", file)
    # RFC 8032, section 7.1, test 1
    assert "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" in result.stdout
    assert "9d61" not in result.stdout


def test_only_what_will_run_needs_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "group.toml"
    file.write_text("[login]\n")
    assert run("check", file).exit_code == 0


def test_what_is_shown_is_in_force_and_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_GROUP_KEY", "5ec4e7")
    file = tmp_path / "group.toml"
    file.write_text("[limits]\nmax_frame = 4096\n")
    result = run("show", file)
    assert result.exit_code == 0
    assert "max_frame = 4096\n" in result.stdout and "max_token = 1000\n" in result.stdout
    assert 'key = "env:GATELINK_GROUP_KEY"' in result.stdout and "5ec4e7" not in result.stdout


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_file_that_is_not_there_can_not_be_run(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path / "none.toml")
    assert isinstance(result.exception, ConfigError)
