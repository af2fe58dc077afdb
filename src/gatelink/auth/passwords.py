"""Password hashes: argon2id (RFC 9106) in a few threads, with a bounded queue."""

import asyncio
import os
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gatelink.auth.errors import InvalidCredential, Unavailable
from gatelink.errors import ConfigError, importing

with importing(__name__, "login"):
    from argon2 import PasswordHasher
    from argon2.exceptions import VerifyMismatchError

T = TypeVar("T")

SALT_BYTES = 16  # RFC 9106, section 4
HASH_BYTES = 32


class Busy(Unavailable):
    """The queue of passwords to hash is full."""


class PasswordHashing:
    """Hashes and checks passwords, off the loop: a hash takes tens of milliseconds, without the GIL.

    The cost: `memory_kib` KiB and `passes` passes over them in `lanes` lanes. The defaults are OWASP's minimum for
    argon2id (Password Storage Cheat Sheet: 19 MiB, 2, 1), for a server with many logins at once. RFC 9106's second
    recommendation (65536, 3, 4) costs an attacker and this server several times as much. A login with a hash of other
    parameters replaces that hash.

    `threads` hash at a time (default: one a core, at most 4), each with `memory_kib`. Up to `max_waiting` more wait;
    beyond that, calls raise Busy. A password has at least `min_length` characters (NIST SP 800-63B: 8 in its third
    revision, 15 in its fourth) and at most `max_bytes` bytes of UTF-8.

    `waiting` counts the queued and running hashes, `runs` the started ones, `refused` the Busy ones.
    """

    def __init__(
        self,
        *,
        memory_kib: int = 19_456,
        passes: int = 2,
        lanes: int = 1,
        threads: int | None = None,
        max_waiting: int = 128,
        min_length: int = 8,
        max_bytes: int = 256,
    ) -> None:
        threads = min(os.cpu_count() or 1, 4) if threads is None else threads
        for name, value, least in (
            ("passes", passes, 1),
            ("lanes", lanes, 1),
            ("memory_kib", memory_kib, 8 * lanes),  # RFC 9106, section 3.1
            ("threads", threads, 1),
            ("max_waiting", max_waiting, 1),
            ("min_length", min_length, 1),
            ("max_bytes", max_bytes, min_length),
        ):
            if value < least:
                raise ConfigError(f"{name} of the password hashing is {value}; it must be {least} or more")
        self._hasher = PasswordHasher(passes, memory_kib, lanes, HASH_BYTES, SALT_BYTES)
        self._dummy = _encoded(memory_kib, passes, lanes)
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._room = threading.Semaphore(threads + max_waiting)
        self._lock = threading.Lock()
        self._min_length = min_length
        self._max_bytes = max_bytes
        self._max_waiting = max_waiting
        self.waiting = self.runs = self.refused = 0

    async def hash(self, password: str) -> str:
        """The encoded hash of `password`, with a new salt. Raises InvalidCredential and Busy."""
        secret = self._secret(password)
        length = len(unicodedata.normalize("NFC", password))
        if length < self._min_length:
            raise InvalidCredential(f"the password has {length} characters; it must have {self._min_length} or more")
        return await self._run(self._hasher.hash, secret)

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether `encoded` is a hash of `password`. None, for a missing account, costs as much and returns False.

        Raises Busy. For a forbidden password it returns False at once.
        """
        try:
            secret = self._secret(password)
        except InvalidCredential:
            return False
        matches = await self._run(self._matches, encoded or self._dummy, secret)
        return matches and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Whether `encoded` was made with other parameters than the current ones."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Stop the threads and cancel what waits. A later call starts them again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def _secret(self, password: str) -> bytes:
        """The bytes to hash: NFC (RFC 8265, OpaqueString), so that all keyboards type the same é, as UTF-8.

        Raises InvalidCredential. The length is checked before any other work.
        """
        if len(password) > self._max_bytes:
            raise InvalidCredential(f"the password is longer than {self._max_bytes} bytes")
        try:
            secret = unicodedata.normalize("NFC", password).encode()
        except UnicodeEncodeError:
            raise InvalidCredential("the password is not valid Unicode text") from None
        if len(secret) > self._max_bytes:
            raise InvalidCredential(f"the password is longer than {self._max_bytes} bytes")
        return secret

    def _matches(self, encoded: str, secret: bytes) -> bool:
        try:
            return self._hasher.verify(encoded, secret)
        except VerifyMismatchError:
            return False

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call `function` in one of the threads. Raises Busy when the queue is full."""
        if not self._room.acquire(blocking=False):
            self.refused += 1
            raise Busy(f"{self._max_waiting} passwords wait for their hash already; add threads or servers")
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="gatelink-password")
        with self._lock:
            self.waiting += 1
            self.runs += 1
        future = self._pool.submit(function, *arguments)
        # Not when the caller is cancelled: a running thread goes on to the end, and holds its memory until then.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[T]) -> None:
        with self._lock:
            self.waiting -= 1
        self._room.release()


def _encoded(memory_kib: int, passes: int, lanes: int) -> str:
    """A hash that no password matches, as costly to check as any: its salt and tag are random."""
    salt, tag = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (SALT_BYTES, HASH_BYTES))
    return f"$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${tag}"
