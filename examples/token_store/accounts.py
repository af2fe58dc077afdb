"""Tokens in SQLite: one process issues them, another checks them, both revoke them.

python -m examples.token_store.accounts FILE UID NAME [moderator]    prints a new token
"""

import asyncio
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from gatelink import Identity, VerifyError

LIFETIME = 3_600  # s
TABLE = """CREATE TABLE IF NOT EXISTS tokens
    (digest BLOB PRIMARY KEY, uid INTEGER, name TEXT, role TEXT, ends REAL)"""


class SqliteTokens:
    """Your own `Tokens` needs only `verify`.

    The file has only digests, so a thief of the file can't log in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as db:
            db.execute(TABLE)

    def issue(self, uid: int, name: str, role: str = "player") -> str:
        token = secrets.token_urlsafe(32)
        row = (sha256(token.encode()).digest(), uid, name, role, time.time() + LIFETIME)
        with self._open() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?)", row)
        return token

    def revoke(self, uid: int) -> None:
        with self._open() as db:
            db.execute("DELETE FROM tokens WHERE uid = ?", (uid,))

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `gatelink.Tokens`. Raises VerifyError with a text for the log."""
        # a disk must not block the loop
        row = await asyncio.to_thread(self._find, sha256(token).digest())
        if row is None or row[0] != uid:
            raise VerifyError(f"not a token of uid {uid}")
        _, name, role, ends = row
        if time.time() >= ends:
            raise VerifyError(f"expired token of uid {uid}")
        return Identity(uid, {"name": name, "role": role}, expires_at=ends)

    def _find(self, digest: bytes) -> tuple[int, str, str, float] | None:
        with self._open() as db:
            row: tuple[int, str, str, float] | None = db.execute(
                "SELECT uid, name, role, ends FROM tokens WHERE digest = ?", (digest,)
            ).fetchone()
            return row

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path)
        try:
            with db:  # commits
                yield db
        finally:
            db.close()


if __name__ == "__main__":
    path, uid, *rest = sys.argv[1:]
    print(SqliteTokens(Path(path)).issue(int(uid), *rest))
