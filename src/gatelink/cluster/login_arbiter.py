"""Decides at one gateway, with the directory, which login of a user is the newest in the whole cluster.

See docs/protocol.md, "Newer logins win".
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from gatelink import tasks
from gatelink.cluster.directory import RETRY, Directory
from gatelink.cluster.engine import Engine, EngineError, EngineUnavailable, Subscription
from gatelink.cluster.links import GATEWAY, Link, Links
from gatelink.cluster.registry import ServerInfo
from gatelink.cluster.renewals import Renewals
from gatelink.errors import RequestFailed
from gatelink.logger import Logger
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.wire.envelope import NewerLogin

log = Logger("gatelink.gateway")

REPLACE_SECONDS = 1.0
"""Seconds that a login waits for the gateway of the older login. That gateway may be dead."""

REPLACE_PAUSE = 0.1
"""Seconds before a gateway that did not answer is asked again."""

MIN_WAIT = 0.1
"""Seconds that each of these requests has, at least."""

SETTLE_SECONDS = 5.0
"""Seconds that a check of all entries may take after the engine's return. Then logins are accepted again."""

LOGIN_WAIT = 3.0
"""Seconds that a login waits for the engine and that check. Less than limits.token_timeout."""

UNSURE_SECONDS = 10.0
"""Seconds after the engine's return in which each login here is announced to all gateways over links.

Another gateway may not have checked its entries yet, so the directory may not name an older login there.
"""

MAX_UNSENT = 10_000
"""Newer logins that wait for the link to one gateway. That gateway finds any others when it checks its entries."""

MAX_BACKLOG = 65_536
"""Bytes of a base session's backlog that the older login's gateway returns, at most."""


class Replace(msgspec.Struct, frozen=True, array_like=True):
    """Request to the gateway of an older login: close sessions older than `epoch`, and return the user's backlog."""

    uid: int
    slot: int
    epoch: int
    proofs: tuple[bytes, ...] = ()  # of the token of the new login; an older version sends none


_encode = msgspec.msgpack.Encoder().encode
_decode_replace = msgspec.msgpack.Decoder(Replace).decode
_backlogs: msgspec.msgpack.Decoder[list[bytes] | None] = msgspec.msgpack.Decoder(list[bytes] | None)


class ClusterLoginArbiter:
    """Gives logins their epochs, and keeps the directory's entries of this gateway (session.interfaces.LoginArbiter).

    While the engine is away, it may lose entries, and other gateways may accept newer logins. So after a loss this
    gateway accepts no login until it is *settled*: it has checked the entries of all its sessions, or SETTLE_SECONDS
    are over.

    gateway: the id of this gateway. sessions: its sessions of clients. links: to the other gateways.
    """

    def __init__(
        self, engine: Engine, gateway: int, context: LoopContext, sessions: SessionManager, links: Links
    ) -> None:
        self.directory = Directory(engine, gateway)
        self.renewals = Renewals(self._renew, self._replaced, self.directory.ttl)
        self._engine = engine
        self._gateway = gateway
        self._context = context
        self._sessions = sessions
        self._links = links
        self._renewing: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._serving: Subscription | None = None
        self._is_settled = asyncio.Event()
        self._is_settled.set()
        self._must_settle = asyncio.Event()
        self._unsure_until = 0.0  # on the wheel's clock: until then other gateways may not have checked their entries
        self._unsent: dict[int, dict[tuple[int, int], int]] = {}  # newer logins' epochs, for gateways without a link

    async def start(self) -> None:
        """Begin to answer the other gateways, and to renew entries. Raises EngineUnavailable."""
        await self.directory.epochs.begin_again()
        self._serving = await self._engine.serve(f"gateway.{self._gateway}.replace", self._replace)
        self._engine.when_back.add(self._lost)
        self._renewing = tasks.live(self.renewals.run, "directory renewal")
        self._settling = tasks.live(self._keep_settled, "directory check")

    async def stop_serving(self) -> None:
        """Stop answering other gateways. Called when another process has this gateway's id."""
        serving, self._serving = self._serving, None
        if serving is not None:
            await serving.close()

    async def close(self) -> None:
        """Stop renewing, and write the remaining ended sessions into the directory."""
        self._engine.when_back.discard(self._lost)
        await tasks.gather_all(
            tasks.cancel_and_wait(self._renewing, self._settling), self.directory.close(), self.stop_serving()
        )

    # -- logins here --

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        """Make a login the newest of `(uid, slot)`.

        Returns its epoch, and the user's backlog at another gateway if there is one. Raises EngineUnavailable.
        """
        await self._until_settled()
        epoch, before = await self.directory.take_epoch(uid, slot)
        if self._is_unsure:
            for link in self._links.of_type(GATEWAY):
                self._send_newer_login(link.id, uid, slot, epoch)
        if before is None or before.gateway == self._gateway:
            return epoch, None
        return epoch, await self._replace_at(before.gateway, Replace(uid, slot, epoch, proofs))

    @property
    def _is_unsure(self) -> bool:
        """Whether other gateways may not have checked their entries since the last loss of the engine."""
        return not self._is_settled.is_set() or self._unsure_until > self._context.wheel.clock()

    async def _until_settled(self) -> None:
        if not self._engine.is_available:
            self._lost()
        if self._is_settled.is_set():
            return
        try:
            async with asyncio.timeout(LOGIN_WAIT):
                await self._is_settled.wait()
        except TimeoutError:
            raise EngineUnavailable(self.trouble or "the engine is not back") from None

    async def _replace_at(self, gateway: int, replace: Replace) -> list[bytes] | None:
        """End the older session at another gateway, and return the user's backlog there.

        A gateway that does not answer may have lost its connection to the engine. So this repeats the request for
        REPLACE_SECONDS, as long as that gateway may live. Then it sends NewerLogin over the link.
        """
        subject, request = f"gateway.{gateway}.replace", _encode(replace)
        clock = self._context.wheel.clock
        deadline = clock() + REPLACE_SECONDS
        while True:
            try:
                return _backlogs.decode(await self._engine.request(subject, request, max(MIN_WAIT, deadline - clock())))
            except (EngineError, RequestFailed, msgspec.MsgspecError) as error:
                may_live = self._links.may_live(gateway)
                if not may_live or clock() + REPLACE_PAUSE > deadline:
                    log.info("the older login was not reached", uid=replace.uid, gateway=gateway, error=str(error))
                    if may_live:
                        self._send_newer_login(gateway, replace.uid, replace.slot, replace.epoch)
                    return None
            await asyncio.sleep(REPLACE_PAUSE)

    def _send_newer_login(self, gateway: int, uid: int, slot: int, epoch: int) -> None:
        """Send a newer login to a gateway over its link, now or when there is a link."""
        link = self._links.get(gateway)
        if link is not None and link.takes_reports:
            link.send_event(NewerLogin(uid, slot, epoch))
        elif link is None:
            unsent = self._unsent.setdefault(gateway, {})
            if len(unsent) < MAX_UNSENT:
                unsent[uid, slot] = epoch

    def link_opened(self, link: Link) -> None:
        """Send a gateway the newer logins that waited for its link."""
        unsent = self._unsent.pop(link.id, {})
        if link.takes_reports:
            for (uid, slot), epoch in unsent.items():
                link.send_event(NewerLogin(uid, slot, epoch))

    def registry_changed(self, before: ServerInfo | None, now: ServerInfo | None) -> None:
        """Forget the newer logins that wait for a gateway which has left."""
        if before is not None and now is None:
            self._unsent.pop(before.id, None)

    # -- logins elsewhere --

    def newer_login(self, uid: int, slot: int, epoch: int) -> None:
        """Close the sessions here that are older than a login at another gateway."""
        self._sessions.close_older(uid, slot, epoch)

    async def _replace(self, data: bytes) -> bytes:
        request = _decode_replace(data)
        frames = self._sessions.supersede(request.uid, request.slot, request.epoch, MAX_BACKLOG, request.proofs)
        return _encode(frames)

    async def _renew(self, uid: int, slot: int, epoch: int) -> bool:
        """Write the entry of a session again. Returns False if the directory has a newer login.

        After a loss the entry may name an older login at another gateway. Then end that session.
        """
        is_newest, before = await self.directory.renew(uid, slot, epoch)
        if is_newest and before is not None and before.gateway != self._gateway:
            await self._replace_at(before.gateway, Replace(uid, slot, epoch))
        return is_newest

    def _replaced(self, uid: int, slot: int, epoch: int) -> None:
        """Close a session here that the directory says is not the newest. The newer one's gateway did not reach us."""
        self._sessions.close_older(uid, slot, epoch + 1)

    # -- the sessions here --

    def opened(self, session: Session) -> None:
        """Keep the entry of a new session alive. It may have been written before a loss of the engine."""
        self.renewals.add(session.uid, session.slot, session.epoch, at_once=self._is_unsure)

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        """Stop renewing the entry of a closed session. It expires `keep` seconds from now."""
        self.renewals.discard(uid, slot, epoch)
        self.directory.ended(uid, slot, epoch, keep)

    # -- losses of the engine --

    @property
    def trouble(self) -> str:
        """Why logins wait just now; "" if they do not."""
        if self._is_settled.is_set():
            return ""
        return "the engine was away, and the directory's entries of the sessions here are not checked yet"

    def check_all(self, call: Callable[[], None]) -> None:
        """Check all entries, and close the sessions that have newer logins elsewhere. Then call `call`.

        `call` is called after SETTLE_SECONDS at the latest, as the engine may be away.
        """
        self._lost()
        tasks.keep(self._call_when_settled(call), "directory check")

    async def _call_when_settled(self, call: Callable[[], None]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._is_settled.wait()
        call()

    def _lost(self) -> None:
        """Accept no login until all entries are checked, as the engine is or was away."""
        self._is_settled.clear()
        self._must_settle.set()

    async def _keep_settled(self) -> None:
        while True:
            await self._must_settle.wait()
            self._must_settle.clear()
            try:
                await self.directory.epochs.begin_again()
            except EngineError:
                self._must_settle.set()
                await asyncio.sleep(RETRY)
                continue
            self._unsure_until = self._context.wheel.clock() + UNSURE_SECONDS
            await self._check_all()
            if not self._must_settle.is_set():
                self._is_settled.set()

    async def _check_all(self) -> None:
        self.renewals.all_are_due()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.renewals.round_is_over.wait()
            log.info("the directory has the sessions of this gateway", sessions=len(self.renewals))
        except TimeoutError:
            log.error("entries of the directory are still being checked; logins go on", sessions=len(self.renewals))
