"""Secrets by reference: a configuration file has the place of a secret, never its value.

    env:NAME     the environment variable NAME
    file:PATH    a file's text; a relative path starts at the configuration's folder

Line ends at the end of both are ignored, and the byte order mark of a file: editors and `echo` add them.

With `--dev` a missing secret is derived from GATELINK_DEV_SECRET. The first process draws that at random, and its
children inherit it. So all processes of one `--dev` run agree, and no secret outlives them.
"""

import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from gatelink.errors import ConfigError
from gatelink.logger import Logger

log = Logger("gatelink.settings")

DEV_SECRET = "GATELINK_DEV_SECRET"
"""The environment variable that throw-away secrets are made from; without `--dev` it is not used."""

_MOST = 65_536  # bytes read of a secret's file: more than any key or credential has
_FORMS = "env:NAME or file:PATH"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDERS = {"changeme", "default", "example", "password", "placeholder", "secret", "todo"}


class Secret:
    """A reference to a secret. Each `reveal` reads the value, and nothing keeps it, so nothing can show it.

    reference: `env:NAME` or `file:PATH`; raises ConfigError for anything else, without showing it. folder: where
    relative paths start. where: the beginning of errors, as `cluster.toml:14: cluster.key`. dev: whether a missing
    secret is made up.
    """

    __slots__ = ("_dev", "_folder", "_where", "reference")

    def __init__(self, reference: str, *, folder: Path | None = None, where: str = "", dev: bool = False) -> None:
        kind, _, rest = reference.partition(":")
        if kind not in ("env", "file") or not rest:
            raise ConfigError(f"a secret must not stand here itself; write where it is, as {_FORMS}")
        if kind == "env" and _ENV_NAME.fullmatch(rest) is None:
            raise ConfigError("env: names no environment variable; write it as env:NAME, of letters, digits and _")
        self.reference = reference
        self._folder = folder or Path()
        self._where = where
        self._dev = dev

    def placed(self, folder: Path, where: str, dev: bool) -> "Secret":
        """The same reference, with its place in a file."""
        return Secret(self.reference, folder=folder, where=where, dev=dev)

    def reveal(self) -> str:
        """The secret. Raises ConfigError if it is missing, readable for everybody, empty, or a placeholder."""
        text = self._find()
        if not text:
            if self._dev:
                return _throwaway(self.reference)
            what = "is not set" if self.reference.startswith("env:") else "is not there, or empty"
            raise self.error(f"{what}; set it, or for development add --dev, which makes up a throw-away secret")
        if not self._dev and (text.lower().replace("-", "") in _PLACEHOLDERS or len(set(text)) == 1):
            raise self.error("holds a placeholder, no secret; put a random one there: openssl rand -hex 32")
        return text

    @property
    def is_missing(self) -> bool:
        """Whether there is no secret, or an empty one. Raises ConfigError for a file that must not be used."""
        return not self._find()

    @property
    def is_made_up(self) -> bool:
        """Whether `reveal` makes it up, since it is missing and `--dev` allows that."""
        return self._dev and self.is_missing

    @property
    def variable(self) -> str | None:
        """The environment variable that it is in; None for a file."""
        kind, _, rest = self.reference.partition(":")
        return rest if kind == "env" else None

    def error_from(self, error: ConfigError) -> ConfigError:
        """`error`, about the revealed value, with the place of the secret."""
        return self.error(f"is not what it must be: {error}")

    def error(self, text: str) -> ConfigError:
        """An error about this secret: its place, its reference, then `text`."""
        return ConfigError(f"{self._where}{': ' if self._where else ''}{self.reference} {text}")

    def _find(self) -> str | None:
        kind, _, rest = self.reference.partition(":")
        text = os.environ.get(rest) if kind == "env" else self._read(self._folder / rest)
        return text.rstrip("\r\n") if text is not None else None

    def _read(self, path: Path) -> str | None:
        """The file's text, None without a file."""
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                raw = file.read(_MOST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.error(f"can't be read: {error.strerror}") from None
        if mode & stat.S_IRWXO:
            raise self.error(f"is open to every user of this machine (mode {mode & 0o777:04o}); chmod 600 {path}")
        if mode & stat.S_IRWXG:
            log.warning("a group can read a secret", file=str(path), mode=f"{mode & 0o777:04o}", fix="chmod 600")
        try:
            if len(raw) <= _MOST:
                return raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
        raise self.error(f"is not text of up to {_MOST} bytes in UTF-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reference == self.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def __repr__(self) -> str:
        return f"Secret({self.reference!r})"


def _throwaway(reference: str) -> str:
    """The secret for `reference` in this `--dev` run: 64 hex digits, valid as a password and as a key."""
    seed = os.environ.get(DEV_SECRET)
    if not seed:
        seed = os.environ[DEV_SECRET] = secrets.token_hex(32)
        log.warning("--dev: secrets are made up", first=reference)
    return hmac.digest(seed.encode(), reference.encode(), "sha256").hex()
