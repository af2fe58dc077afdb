"""Checks that the accounts' database answers, and that all login services of the cluster use the same one.

Two login services with a database each would give two people one uid. So the engine holds the identity of the database
for as long as a login service uses it. Without a login nobody would notice that the database is away. So a login
service checks it every second, and /healthz shows the result.
"""

import asyncio
import time
from contextlib import suppress

from gatelink import tasks
from gatelink.auth.accounts import Accounts, AccountsUnavailable
from gatelink.cluster.engine import Conflict, Conflicts, Engine, EngineUnavailable, write_over
from gatelink.errors import GatelinkError
from gatelink.logger import Logger

log = Logger("gatelink.login")

EVERY = 1.0
"""Seconds between two checks."""

SLOW = 2.0
"""Seconds without an answer after which the database counts as away."""

KEY = "logins.database"
TTL = 30.0
"""Seconds that the engine keeps the database's identity after the last login service has ended."""

RENEWED = 10.0
"""Seconds between two writes of the key."""


class OtherDatabase(GatelinkError):
    """Another login service of the cluster keeps its accounts in another database."""


class DatabaseCheck:
    """Checks the accounts' database every second. trouble: why the last check failed; "" if it did not."""

    def __init__(self, accounts: Accounts, engine: Engine) -> None:
        self.trouble = ""
        self._is_other = False  # at the last look, the engine had another database
        self._accounts = accounts
        self._engine = engine
        self._identity = b""
        self._claim_at = 0.0  # when the key is due to be written
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Claim the database for the cluster, and begin to check it. Raises OtherDatabase, AccountsUnavailable."""
        self._identity = (await self._accounts.identity()).encode()
        with suppress(EngineUnavailable):  # a later check claims it
            await self._claim()
        self._running = tasks.live(self._run, "check of the accounts")

    async def stop(self) -> None:
        await tasks.cancel_and_wait(self._running)

    def refuse_other(self) -> None:
        """Raises AccountsUnavailable while the cluster has another database: an account may be another person's."""
        if self._is_other:
            raise AccountsUnavailable("another login of this cluster keeps its accounts in another database")

    async def _run(self) -> None:
        while True:
            asked = asyncio.create_task(self._ask())
            try:
                await asyncio.wait({asked}, timeout=SLOW)
                if not asked.done():
                    self._set(f"no answer in {SLOW:g} s")
                    await asyncio.wait({asked})  # the calls of the database and the engine have deadlines of their own
            finally:
                await tasks.cancel_and_wait(asked)
            self._set(asked.result())
            await asyncio.sleep(EVERY)

    async def _ask(self) -> str:
        """Check once. Returns what is wrong, or ""."""
        try:
            await self._accounts.check()
            await self._claim()
        except EngineUnavailable:
            pass  # /healthz shows the engine's trouble anyway
        except (AccountsUnavailable, OtherDatabase) as error:
            return str(error)
        return ""

    async def _claim(self) -> None:
        """Write the database's identity into the engine, if a write is due. Raises OtherDatabase, EngineUnavailable."""
        if not self._identity or time.monotonic() < self._claim_at:
            return
        conflicts = Conflicts(KEY)
        while True:
            entry = await self._engine.get(KEY)
            self._is_other = entry is not None and entry.value != self._identity
            if self._is_other:
                raise OtherDatabase(
                    "another login of this cluster keeps its accounts in another database, so two people could get one "
                    f"uid; give all logins the same accounts.url, or wait {TTL:g} s after the end of the last other one"
                )
            try:
                await write_over(self._engine, entry, KEY, self._identity, TTL)
            except Conflict:  # another login's write came first
                await conflicts.another()
                continue
            self._claim_at = time.monotonic() + RENEWED
            return

    def _set(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.error("the accounts' database fails", cause=trouble)
        elif self.trouble and not trouble:
            log.info("the accounts' database is back")
        self.trouble = trouble
