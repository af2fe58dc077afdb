"""Long-lived keys in files: `gatelink keys` makes them and servers load them (docs/protocol.md, "Encryption").

    server-key 64 hex digits                one line; a cluster's begins with cluster-key
    login-key 264 hex digits                a line for each key of the cluster, the newest first

server = Server("tcp://0.0.0.0:7000", tokens=tokens, keys=[load_server_key("server.key")])
"""

import os
from collections.abc import Sequence
from pathlib import Path

from gatelink.cluster.engine_keys import LoginKey
from gatelink.errors import ConfigError
from gatelink.wire.keys import ClusterKey, ServerKey

Key = ServerKey | ClusterKey

_KINDS: dict[str, type[ServerKey] | type[ClusterKey]] = {
    "server-key": ServerKey,
    "cluster-key": ClusterKey,
    "group-key": ClusterKey,  # as files of an earlier version begin
}
_MOST = 4_096  # bytes read of a file: enough to see that it is no key


def load_server_key(path: str | Path) -> ServerKey:
    """The server key in the file at `path`. Raises ConfigError if it can't be read, or holds something else."""
    key = load_key(path)
    if not isinstance(key, ServerKey):
        raise ConfigError(f"{path} is a cluster key, not a server key; make one with `gatelink keys new`")
    return key


def load_cluster_key(path: str | Path) -> ClusterKey:
    """The cluster key in the file at `path`. Raises ConfigError if it can't be read, or holds something else."""
    key = load_key(path)
    if not isinstance(key, ClusterKey):
        raise ConfigError(f"{path} is a server key, not a cluster key; make one with `gatelink keys new --cluster`")
    return key


def load_key(path: str | Path) -> Key:
    """The key in the file at `path`. Raises ConfigError if it can't be read or is no key. No error shows the text."""
    try:
        return key_of_text(_read(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_login_keys(path: str | Path) -> list[LoginKey]:
    """The login keys in the file at `path`, the newest first. Raises ConfigError."""
    try:
        return login_keys_of_text(_read(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def key_of_text(text: str) -> Key:
    """The key in `text`, as `key_text` wrote it. Raises ConfigError, without the text."""
    words = text.split()
    if len(words) != 2 or words[0] not in _KINDS:
        raise ConfigError("not a key file; `gatelink keys new --out FILE` makes one")
    return _KINDS[words[0]].from_hex(words[1])


def is_of_login(path: str | Path) -> bool:
    """Whether the file at `path` has login keys. Raises ConfigError if it can't be read."""
    return _read(path).startswith("login-key")


def login_keys_of_text(text: str) -> list[LoginKey]:
    """The keys in `text`, as `login_keys_text` wrote it. Raises ConfigError, without the text."""
    words = text.split()
    if not words or set(words[::2]) != {"login-key"} or len(words) % 2:
        raise ConfigError("no login keys; `gatelink keys login CLUSTER_KEY_FILE --out FILE` makes them")
    return [LoginKey.from_hex(word) for word in words[1::2]]


def login_keys_text(keys: Sequence[ClusterKey]) -> str:
    """The text of the file for a login service of the cluster with `keys`, the newest first: a secret."""
    return "".join(f"login-key {LoginKey.of(key).to_hex()}\n" for key in keys)


def save_key(key: Key, path: str | Path) -> None:
    """Write `key` to a new file that only its owner can read. Raises ConfigError if it exists or can't be written."""
    save_text(key_text(key), path)


def save_text(text: str, path: str | Path) -> None:
    """Write a secret to a new file, as `save_key` does."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists, and a lost key can't be made again; choose another name") from None
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None


def _read(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None


def key_text(key: Key) -> str:
    """The text of the file of `key`: a secret."""
    kind = "server-key" if isinstance(key, ServerKey) else "cluster-key"
    return f"{kind} {key.to_hex()}\n"
