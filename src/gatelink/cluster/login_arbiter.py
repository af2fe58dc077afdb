"""Which login of a user is the newest in the whole cluster, as one gateway decides it with the directory.

See docs/protocol.md, "Newer logins win".
"""

import asyncio

import msgspec

from gatelink import tasks
from gatelink.cluster.directory import Directory
from gatelink.cluster.engine import Engine, EngineError, Subscription
from gatelink.cluster.renewals import Renewals
from gatelink.errors import CloseCode
from gatelink.logger import Logger
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import DUPLICATE_LOGIN_FRAME, SessionManager
from gatelink.session.session import Session

log = Logger("gatelink.gateway")

REPLACE_SECONDS = 1.0
"""How long a login waits for the gateway of the login before; that gateway may be dead."""

MAX_BACKLOG = 65_536
"""Bytes of a base session's backlog that one gateway gives another."""


class Replace(msgspec.Struct, frozen=True, array_like=True):
    """Request to the gateway of an older login: close sessions older than `epoch`, and return the user's backlog."""

    uid: int
    slot: int
    epoch: int
    proofs: tuple[bytes, ...] = ()  # of the token of the new login; an older version sends none


_encode = msgspec.msgpack.Encoder().encode
_decode_replace = msgspec.msgpack.Decoder(Replace).decode
_decode_backlog = msgspec.msgpack.Decoder(list[bytes] | None).decode


class ClusterLoginArbiter:
    """Gives logins their epochs, and keeps the directory's entries of this gateway (session.interfaces.LoginArbiter).

    gateway: the id of this gateway. sessions: its sessions of clients.
    """

    def __init__(self, engine: Engine, gateway: int, context: LoopContext, sessions: SessionManager) -> None:
        self.directory = Directory(engine, gateway)
        self.renewals = Renewals(self.directory.renew, self._close_older, self.directory.ttl)
        self._engine = engine
        self._gateway = gateway
        self._context = context
        self._sessions = sessions
        self._renewing: asyncio.Task[None] | None = None
        self._serving: Subscription | None = None

    async def start(self) -> None:
        """Answer the other gateways, and renew entries from now on. Raises EngineUnavailable."""
        self._serving = await self._engine.serve(f"gateway.{self._gateway}.replace", self._replace)
        self._engine.when_back.add(self.renewals.all_are_due)
        self._renewing = tasks.live(self.renewals.run, "directory renewal")

    async def close(self) -> None:
        """Stop renewing, and write the ends of sessions that wait to be written."""
        self._engine.when_back.discard(self.renewals.all_are_due)
        served = [self._serving.close()] if self._serving is not None else []
        await tasks.gather_all(tasks.cancel_and_wait(self._renewing), self.directory.close(), *served)

    async def claim(self, uid: int, slot: int, *proofs: bytes) -> tuple[int, list[bytes] | None]:
        """Make a login the newest of `(uid, slot)`: its epoch, and the user's backlog at another gateway.

        Raises EngineUnavailable.
        """
        epoch, before = await self.directory.take_epoch(uid, slot)
        backlog = None
        if before is not None and before.gateway != self._gateway:
            request = _encode(Replace(uid, slot, epoch, proofs))
            try:
                answer = await self._engine.request(f"gateway.{before.gateway}.replace", request, REPLACE_SECONDS)
                backlog = _decode_backlog(answer)
            except EngineError as error:  # the older session closes when its gateway next renews its entry
                log.info("the older login was not reached", uid=uid, gateway=before.gateway, error=str(error))
        return epoch, backlog

    def opened(self, session: Session) -> None:
        """Keep the entry of a new session alive."""
        self.renewals.add(session.uid, session.slot, session.epoch)

    def ended(self, uid: int, slot: int, epoch: int, keep: float) -> None:
        """A session is closed: its entry expires `keep` seconds from now."""
        self.renewals.discard(uid, slot, epoch)
        self.directory.ended(uid, slot, epoch, keep)

    async def _replace(self, data: bytes) -> bytes:
        request = _decode_replace(data)
        frames = self._sessions.supersede(request.uid, request.slot, request.epoch, MAX_BACKLOG, request.proofs)
        return _encode(frames)

    def _close_older(self, uid: int, slot: int, epoch: int) -> None:
        """The directory has a newer login of a session here; the newer login's gateway did not reach this one."""
        session = self._sessions.get(uid, slot)
        if session is not None and session.epoch == epoch:
            farewell = self._context.in_form(DUPLICATE_LOGIN_FRAME)
            session.close(CloseCode.REPLACED, "a newer login", farewell=farewell)
