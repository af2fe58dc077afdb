"""Which connections may stay: the limits that all listeners of one frontend share.

A connection is admitted, or dropped without a word and counted by reason. Until its credentials have been received it
is unverified. So is one that was refused and still lingers, because its peer may read the reason. Unverified
connections are capped; over the cap a refused one is closed, else the oldest. A client sends its credentials at once,
so connections that send none, however many, keep no client out.
"""

import asyncio
from collections.abc import Set
from functools import partial

from gatelink.errors import CloseCode, PeerError
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.bans import BanTable, ConnectRates
from gatelink.net.connection import NULL_RECEIVER, Connection
from gatelink.net.endpoints import AddressTable, address_key
from gatelink.net.handshake_queue import HandshakeQueue
from gatelink.net.step_queue import StepQueue
from gatelink.session.loop_context import LoopContext
from gatelink.session.stream import FrameReceiver

quiet = RateLimitedLogger(Logger("gatelink.refusals"))

LOGGED_APART = frozenset({"verify-failed", "tokens-unavailable", "resume-refused"})
"""Reasons that other code logs, with more details."""


class TooManyUnverified(PeerError):
    """Too many connections are unverified, and this one is the oldest. No fault of its peer."""

    code = CloseCode.SERVER_FULL


class Unverified:
    """Unverified connections, each the oldest in front. Over a cap the first of `refused` is closed, else of `waiting`.

    refused: those that linger, because the peer may still read the reason.
    """

    __slots__ = ("refused", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Connection, None] = {}
        self.refused: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.refused)

    def remove(self, connection: Connection) -> None:
        self.waiting.pop(connection, None)
        self.refused.pop(connection, None)


class Admission:
    """Counts connections, and keeps a record of their addresses."""

    def __init__(self, context: LoopContext) -> None:
        self._context = context
        self._addresses = AddressTable(context.limits.max_per_address, context.limits.exempt)
        self.counted_key = self._addresses.counted_key
        self._rates = ConnectRates(context.limits)
        self.bans = BanTable(context.limits)
        self.handshakes = HandshakeQueue(context)
        self.steps = StepQueue(context.loop)
        self._connections: dict[Connection, None] = {}  # which takes less than a set
        self.connections: Set[Connection] = self._connections.keys()
        self.unverified = Unverified()
        self._unverified_of: dict[str, Unverified] = {}  # by the key of their address
        self.open = True
        self._places = 0  # taken
        self._emptied = asyncio.Event()

    def is_exempt(self, address: str) -> bool:
        """Whether no limit holds for `address` and for the connections from it."""
        return self.counted_key(address) is None

    def enter(self, connection: Connection) -> bool:
        """Whether `connection` may stay; else it is refused. One without an address needs `locate`, too."""
        reason = ""
        if not self.open:
            reason = "stopping"
        elif self._places >= self._context.limits.max_connections:
            reason = "server-full"
        elif connection.address is not None:
            reason = self._enter_address(connection, connection.address)
        if reason:
            self.refuse(connection, reason)
            return False
        self._context.stats.accepted += 1
        self._connections[connection] = None
        self.unverified.waiting[connection] = None
        self._places += 1
        if len(self.unverified) > self._context.limits.max_unverified:
            self._close_one(self.unverified)
        return True

    def locate(self, connection: Connection, address: str) -> bool:
        """Whether `connection`, which entered without an address, may stay with this one; else it is refused."""
        reason = self._enter_address(connection, address)
        if reason:
            self.refuse(connection, reason)
            return False
        connection.address = address
        return True

    def _enter_address(self, connection: Connection, address: str) -> str:
        """Count `connection` under `address`. Returns the reason to refuse it, "" for none."""
        key = self.counted_key(address)
        if key is None:
            return ""
        now = self._context.wheel.read_clock()
        reason = ""
        if self.bans.is_banned(key, now):
            reason = "address-banned"
        elif not self._addresses.enter(address):
            reason = "address-full"
        elif not self._rates.take(key, now):
            self._addresses.leave(address)
            reason = "address-rate"
        if reason:
            return reason
        unverified = self._unverified_of.setdefault(key, Unverified())
        unverified.waiting[connection] = None
        if len(unverified) > self._context.limits.max_unverified_per_address:
            self._close_one(unverified)
        return ""

    def add_refused(self, connection: Connection) -> None:
        """Count a refused connection, which lingers so that its peer can read why, as unverified.

        It is closed first when there is no room for others.
        """
        if connection not in self.connections:
            return
        limits = self._context.limits
        key = None if connection.address is None else self.counted_key(connection.address)
        self._make_room(self.unverified, limits.max_unverified)
        self.unverified.refused[connection] = None
        if key is not None:
            self._make_room(self._unverified_of.get(key), limits.max_unverified_per_address)
            self._unverified_of.setdefault(key, Unverified()).refused[connection] = None

    def _make_room(self, unverified: Unverified | None, most: int) -> None:
        """Close a refused connection if there are `most`. Without one, the next may linger: one over the cap."""
        if unverified is not None and unverified.refused and len(unverified) >= most:
            self._close_one(unverified)

    def credentials_received(self, connection: Connection) -> None:
        """`connection` has sent its credentials, or is closed: it no longer counts as unverified."""
        self.unverified.remove(connection)
        key = None if connection.address is None else self.counted_key(connection.address)
        if key is not None and (unverified := self._unverified_of.get(key)) is not None:
            unverified.remove(connection)
            if not unverified:
                del self._unverified_of[key]

    def login_failed(self, address: str) -> None:
        """A login from `address` failed, by the fault of its peer."""
        key = self.counted_key(address)
        if key is not None and self.bans.failed(key, self._context.wheel.read_clock()):
            self._context.stats.bans += 1

    def login_succeeded(self, address: str) -> None:
        self.handshakes.clear_penalty(address_key(address))
        key = self.counted_key(address)
        if key is not None:
            self.bans.succeeded(key)

    def banned(self) -> int:
        """The number of addresses that are banned now. Takes time in proportion to all that are remembered."""
        return self.bans.banned(self._context.wheel.read_clock())

    def note_refusal(self, reason: str, address: str | None, why: str = "") -> None:
        """Count a refusal, and log it, at most one a second of each reason. why: details, in our own words."""
        self._context.stats.refused[reason] += 1
        if reason not in LOGGED_APART:
            quiet.info(f"refused: {reason}", address=address or "", why=why)

    def refuse(self, connection: Connection, reason: str, why: str = "") -> None:
        """Drop `connection` without a word; count and log it as `note_refusal`."""
        self.note_refusal(reason, connection.address, why)
        self.credentials_received(connection)
        connection.drop()

    def leave(self, connection: Connection, receiver: FrameReceiver) -> None:
        """`connection` is closed; does nothing if it was never admitted.

        Its place is free once the handlers of its messages have ended, too. Otherwise a client that reconnects often
        could have more work waiting here than one that stays.
        """
        if connection in self.connections:
            del self._connections[connection]
            self.credentials_received(connection)
            self.handshakes.leave(connection)
            receiver.when_handled(partial(self._free, connection.address))
            if not self.connections:
                self._emptied.set()

    def _close_one(self, unverified: Unverified) -> None:
        """Close a connection that was refused; else the oldest, which gets the reason if it has sent HELLO."""
        connection = next(iter(unverified.refused or unverified.waiting))
        if unverified.refused:
            self.credentials_received(connection)
            connection.abort()
        elif connection.receiver is NULL_RECEIVER:  # before its TLS handshake or PROXY header is whole
            self.refuse(connection, "unverified-full")
        else:
            self.credentials_received(connection)
            connection.receiver.broken(
                TooManyUnverified("too many connections are not verified, and this one is the oldest")
            )

    def _free(self, address: str | None) -> None:
        self._places -= 1
        if address is not None:
            self._addresses.leave(address)

    async def wait_empty(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            self._emptied.clear()
            await self._emptied.wait()
