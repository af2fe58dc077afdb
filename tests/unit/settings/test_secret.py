"""Secrets are where a configuration says, and nowhere else: not in it, not in a repr, an error or a log."""

import copy
import os
import pickle
from pathlib import Path

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from gatelink.errors import ConfigError
from gatelink.settings import EngineSettings, Secret, load
from gatelink.settings.secret import DEV_SECRET

NAME = "GATELINK_TEST_SECRET"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of another test, and none of this one for the next."""
    monkeypatch.setenv(DEV_SECRET, "")
    monkeypatch.delenv(DEV_SECRET)
    monkeypatch.delenv(NAME, raising=False)


def file_of(folder: Path, text: str, mode: int = 0o600) -> Secret:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return Secret("file:secret", folder=folder, where="cluster.toml:3: cluster.key")


def refusal(secret: Secret) -> str:
    with pytest.raises(ConfigError) as caught:
        secret.reveal()
    return str(caught.value)


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "5ec4e7")
    assert Secret(f"env:{NAME}").reveal() == "5ec4e7"


def test_a_secret_is_read_from_a_file_without_its_last_newline(tmp_path: Path) -> None:
    assert file_of(tmp_path, "5ec4e7 \n").reveal() == "5ec4e7 "
    assert Secret(f"file:{tmp_path}/secret").reveal() == "5ec4e7 "


def test_its_value_is_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "5ec4e7")
    secret = Secret(f"env:{NAME}", where="cluster.toml:3: cluster.key")
    secret.reveal()
    settings = EngineSettings(url="nats://h:1", user="me", password=secret)
    shown = [repr(secret), str(secret), f"{secret}", repr(settings), str(secret.error("is wrong"))]
    shown += [
        pickle.dumps(secret).decode("latin-1"),
        repr(copy.deepcopy(secret)),
        repr(msgspec.structs.asdict(settings)),
    ]
    shown += [str([getattr(secret, name) for name in Secret.__slots__])]
    assert not any("5ec4e7" in text for text in shown)
    assert repr(secret) == f"Secret('env:{NAME}')"


@pytest.mark.parametrize("literal", ["5ec4e7", "", "env:", "file:", "ENV:X", "https://x", "env:5ec4e7 x", "env:a=b"])
def test_what_is_no_reference_is_refused_and_not_repeated(literal: str) -> None:
    with pytest.raises(ConfigError, match="env:NAME") as caught:
        Secret(literal)
    assert "5ec4e7" not in str(caught.value)


def test_a_missing_secret_is_refused_with_where_and_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Secret(f"env:{NAME}", where="cluster.toml:3: cluster.key")
    says = "; set it, or for development add --dev, which makes up a throw-away secret"
    assert refusal(missing) == f"cluster.toml:3: cluster.key: env:{NAME} is not set{says}"
    monkeypatch.setenv(NAME, "")
    assert "is not set" in refusal(missing)
    assert "is not there, or empty" in refusal(Secret("file:none", folder=tmp_path))
    assert "is not there, or empty" in refusal(file_of(tmp_path, "\n"))


@pytest.mark.parametrize("text", ["changeme", "change-me", "Password", "secret", "0" * 64, "xxxx"])
def test_a_placeholder_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(NAME, text)
    assert "holds a placeholder" in refusal(Secret(f"env:{NAME}"))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_file_that_everybody_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    text = refusal(file_of(tmp_path, "5ec4e7", mode))
    assert f"(mode 0{mode:o}); chmod 600 {tmp_path}/secret" in text and "5ec4e7" not in text


def test_a_file_that_a_group_can_read_is_warned_of(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert file_of(tmp_path, "5ec4e7", 0o640).reveal() == "5ec4e7"
    assert [(each["log_level"], each["mode"]) for each in logs] == [("warning", "0640")]
    assert "5ec4e7" not in str(logs)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"a" * 65_537])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, raw: bytes) -> None:
    secret = file_of(tmp_path, "x")
    (tmp_path / "secret").write_bytes(raw)
    assert "is not text of up to 65536 bytes" in refusal(secret)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "can't be read: Is a directory" in refusal(Secret(f"file:{tmp_path}"))


def test_with_dev_a_missing_secret_is_made_up_once_and_warned_of_once() -> None:
    with capture_logs() as logs:
        first = Secret(f"env:{NAME}", dev=True)
        values = [first.reveal(), first.reveal(), Secret("file:none", dev=True).reveal()]
    assert values[0] == values[1] != values[2]
    assert all(len(bytes.fromhex(value)) == 32 for value in values)
    assert [each["log_level"] for each in logs] == ["warning"]
    assert not any(value in str(logs) for value in values)


def test_with_dev_the_processes_that_one_starts_have_the_same_secrets() -> None:
    """A child has what its parent's environment has."""
    made = Secret(f"env:{NAME}", dev=True).reveal()
    with capture_logs() as logs:
        assert Secret(f"env:{NAME}", dev=True).reveal() == made
    assert not logs
    del os.environ[DEV_SECRET]
    assert Secret(f"env:{NAME}", dev=True).reveal() != made


def test_with_dev_a_secret_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "changeme")
    assert Secret(f"env:{NAME}", dev=True).reveal() == "changeme"
    assert DEV_SECRET not in os.environ


def test_without_dev_the_throw_away_seed_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEV_SECRET, "x")
    assert "is not set" in refusal(Secret(f"env:{NAME}"))


def test_a_secret_knows_its_line_also_when_the_file_does_not_name_it(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(f'\n[cluster]\nkey = "env:{NAME}"\n[tokens]\nkind = "signed"\n')
    settings = load(tmp_path / "cluster.toml")
    assert refusal(settings.cluster.key).startswith(f"{tmp_path}/cluster.toml:3: cluster.key: env:{NAME} is not set")
    assert refusal(settings.tokens.signing_keys[0]).startswith(f"{tmp_path}/cluster.toml:4: tokens.signing_keys: env:")


def test_a_log_line_with_a_secret_shows_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "5ec4e7")
    line = structlog.dev.ConsoleRenderer(colors=False)(None, "info", {"event": "x", "key": Secret(f"env:{NAME}")})
    assert NAME in line and "5ec4e7" not in line


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_line_ends_at_the_end_are_no_part_of_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """`export KEY="$(cat key; echo)"`, and environment files of containers, leave them there."""
    monkeypatch.setenv("GATELINK_TEST", f"s3cret{end}")
    assert Secret("env:GATELINK_TEST").reveal() == "s3cret"
    path = tmp_path / "key"
    path.write_bytes(b"\xef\xbb\xbfs3cret" + end.encode())  # an editor of Windows begins it so
    path.chmod(0o600)
    assert Secret(f"file:{path}").reveal() == "s3cret"


def test_a_variable_with_a_line_end_alone_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_TEST", "\n")
    with pytest.raises(ConfigError, match="env:GATELINK_TEST is not set"):
        Secret("env:GATELINK_TEST").reveal()
