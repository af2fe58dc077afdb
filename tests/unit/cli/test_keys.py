"""`gatelink keys`, and the files that it makes: what servers load, and what nobody but their owner sees."""

import base64
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatelink import ConfigError, Server, StaticTokens
from gatelink.cli import app
from gatelink.cluster.engine_keys import LoginKey
from gatelink.keys import Key, load_cluster_key, load_key, load_login_keys, load_server_key, save_key
from gatelink.wire.keys import ClusterKey, ServerKey

SERVER_KEY = ServerKey.from_hex("01" * 32)
CLUSTER_KEY = ClusterKey.from_hex("02" * 32)
both_kinds = pytest.mark.parametrize("key", [SERVER_KEY, CLUSTER_KEY], ids=["server", "cluster"])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def refused(*arguments: str) -> str:
    """The ConfigError that `gatelink` prints before it exits with 2."""
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError) and not result.stdout
    return str(result.exception)


def test_a_new_server_key_is_loaded_and_its_public_key_was_shown(tmp_path: Path) -> None:
    file = tmp_path / "server.key"
    shown = run("new", "--out", str(file)).stdout
    key = load_server_key(file)
    assert key.key_id.hex() in shown and key.public.hex() in shown
    assert base64.b64encode(key.public).decode() in shown
    assert key.to_hex() not in shown
    assert Server("tcp://127.0.0.1:0", tokens=StaticTokens(), keys=[key], sealed_only=True).public_key == key.public


def test_a_new_cluster_key_is_loaded_and_only_its_id_was_shown(tmp_path: Path) -> None:
    file = tmp_path / "cluster.key"
    shown = run("new", "--cluster", "--out", str(file)).stdout
    key = load_cluster_key(file)
    assert shown.split() == ["key", "id", key.key_id.hex()]


@pytest.mark.parametrize("options", [[], ["--cluster"]], ids=["server", "cluster"])
def test_without_a_file_standard_output_is_the_file_and_no_two_keys_are_alike(
    options: list[str], tmp_path: Path
) -> None:
    found = set()
    for number in range(2):
        result = run("new", *options)
        file = tmp_path / str(number)
        file.write_text(result.stdout)
        key = load_key(file)
        assert isinstance(key, ClusterKey) == bool(options)
        assert key.key_id.hex() in result.stderr and key.to_hex() not in result.stderr
        found.add(key.to_hex())
    assert len(found) == 2


def test_a_key_file_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "old.key").write_text("group-key " + "02" * 32 + "\n")
    assert load_cluster_key(tmp_path / "old.key").psk == CLUSTER_KEY.psk


@both_kinds
def test_only_the_owner_can_read_a_new_file_whatever_the_umask(key: Key, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save_key(key, tmp_path / "key")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "server.key"
    save_key(SERVER_KEY, file)
    assert "server.key exists" in refused("new", "--out", str(file))
    assert load_server_key(file).to_hex() == SERVER_KEY.to_hex()


def test_not_even_a_link_to_nowhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert "exists, and a lost key" in refused("new", "--out", str(tmp_path / "link"))
    assert not (tmp_path / "target").exists()


@both_kinds
def test_show_tells_what_may_be_known_and_never_the_secret(key: Key, tmp_path: Path) -> None:
    save_key(key, tmp_path / "key")
    result = run("show", str(tmp_path / "key"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert key.key_id.hex() in result.stdout and key.to_hex() not in result.stdout
    if isinstance(key, ServerKey):
        assert key.public.hex() in result.stdout


def test_show_says_when_others_can_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.key"
    save_key(SERVER_KEY, file)
    file.chmod(0o640)
    result = run("show", str(file))
    assert result.exit_code == 0 and f"chmod 600 {file}" in result.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a key file"),
        ("01" * 32, "not a key file"),
        ("server-key " + "01" * 32 + " more", "not a key file"),
        ("-----BEGIN PRIVATE KEY-----\n5ec4e7\n-----END PRIVATE KEY-----\n", "not a key file"),
        ("server-key 5ec4e7", "server key of 6 characters; it must be 64 hex digits"),
        ("cluster-key 5ec4e7" + "zz" * 29, "cluster key of 64 characters; it must be 64 hex digits"),
        ("server-key " + "5ec4e7" * 2_000, "it must be 64 hex digits"),
        ("\xff" * 100, "not a key file"),
    ],
)
def test_what_is_no_key_is_refused_without_telling_what_it_says(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text, "latin-1")
    error = refused("show", str(file))
    assert str(file) in error and says in error and "5ec4e7" not in error


def test_a_key_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    save_key(SERVER_KEY, tmp_path / "server.key")
    save_key(CLUSTER_KEY, tmp_path / "cluster.key")
    with pytest.raises(ConfigError, match="is a cluster key"):
        load_server_key(tmp_path / "cluster.key")
    with pytest.raises(ConfigError, match="is a server key"):
        load_cluster_key(tmp_path / "server.key")


@pytest.mark.parametrize("arguments", [["show"], ["new", "--out"]], ids=["show", "new"])
def test_a_file_that_cannot_be_opened_is_named_with_the_reason(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "key"
    assert refused(*arguments, str(file)) == f"key file {file}: No such file or directory"


def test_help_says_where_the_secret_goes() -> None:
    result = run("new", "--help")
    assert result.exit_code == 0
    for word in ("--cluster", "--out", "secret", "Exit status"):
        assert word in result.stdout


def test_the_keys_of_a_login_service_are_made_of_the_cluster_key_and_only_ids_are_shown(tmp_path: Path) -> None:
    older = ClusterKey.from_hex("03" * 32)
    save_key(CLUSTER_KEY, tmp_path / "new.key")
    save_key(older, tmp_path / "old.key")
    file = tmp_path / "login.key"
    shown = run("login", str(tmp_path / "new.key"), str(tmp_path / "old.key"), "--out", str(file)).stdout
    assert shown.split() == ["key", "id", CLUSTER_KEY.key_id.hex(), "key", "id", older.key_id.hex()]
    assert run("show", str(file)).stdout == shown
    assert file.stat().st_mode & 0o777 == 0o600
    expected = [LoginKey.of(key).to_hex() for key in (CLUSTER_KEY, older)]
    assert [key.to_hex() for key in load_login_keys(file)] == expected
    assert CLUSTER_KEY.to_hex() not in file.read_text() and older.to_hex() not in file.read_text()
    printed = run("login", str(tmp_path / "new.key"))
    assert printed.stdout == f"login-key {LoginKey.of(CLUSTER_KEY).to_hex()}\n"


def test_login_keys_are_made_of_nothing_but_a_cluster_key(tmp_path: Path) -> None:
    save_key(SERVER_KEY, tmp_path / "server.key")
    assert "is a server key, not a cluster key" in refused("login", str(tmp_path / "server.key"))
    for text in ("login-key 5ec4e7", "login-key", "login-key " + "zz" * 132, "login-key 00 cluster-key " + "02" * 32):
        (tmp_path / "login.key").write_text(text)
        assert "5ec4e7" not in refused("show", str(tmp_path / "login.key"))
    (tmp_path / "login.key").write_text(f"login-key {LoginKey.of(CLUSTER_KEY).to_hex()}\n")
    with pytest.raises(ConfigError, match="not a key file"):
        load_cluster_key(tmp_path / "login.key")
