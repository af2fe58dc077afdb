"""What a step works with: a driver, a server of its own behind a proxy of its own, and verbs for both."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from gatelink.conformance import contract
from gatelink.conformance.connection import ScriptedConnection
from gatelink.conformance.driver import Driver
from gatelink.conformance.judge import Judge, Unmet
from gatelink.conformance.player import Player
from gatelink.conformance.server import ScriptedServer, Transport
from gatelink.conformance.session import RESUME_WINDOW
from gatelink.testing.chaos import ChaosProxy
from gatelink.testing.faults import Fault
from gatelink.wire.control import Features
from gatelink.wire.keys import ServerKey

FIRST_UID = 2**63 + 1
"""Users have ids that no double holds."""

BACKOFF = 0.02, 0.2
"""Seconds: short delays, so that a step takes tenths of a second."""

NO_HEARTBEAT = 30.0, 90.0
"""The heartbeat of a step that is about something else."""

QUIET = 0.4
"""Seconds in which a client that dials again has dialled: twice the longest delay."""


RESTARTS = "restart"
"""What a driver can whose client begins a new session when the old one can't be resumed."""


class Skipped(Exception):
    """The SDK does not have what the step is about, and does not say that it has."""


class Bench:
    """One step's driver, server and proxy.

    players: the sessions that the driver was told of, by number.
    faults: returns the proxy's faults for a connection, by its number.
    sealed: whether connections begin with a Noise handshake.
    """

    def __init__(self, driver: Driver, judge: Judge, transport: Transport, sealed: bool) -> None:
        self.driver = driver
        self.judge = judge
        self.sealed = sealed
        self.players: dict[int, Player] = {}
        self.faults: Callable[[int], Sequence[Fault]] = lambda number: ()
        self.proxy: ChaosProxy
        self._key = ServerKey.generate() if sealed else None
        self.server = ScriptedServer(judge, transport, self._key, self.players)

    async def __aenter__(self) -> Self:
        self.proxy = ChaosProxy(await self.server.listen(), lambda number: self.faults(number))
        await self.proxy.__aenter__()
        self.driver.on_event = self._take
        self.driver.on_end = self.judge.give_up
        if self.driver.end is not None:
            self.judge.give_up(self.driver.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.on_event = lambda event: None
        self.driver.on_end = lambda why: None
        self.server.close()
        await self.proxy.__aexit__(kind, error, trace)

    def _take(self, event: contract.Event) -> None:
        if isinstance(event, contract.Ready | contract.Reset):
            self.judge.blame("the driver wrote `ready` or `reset` in a step")
        elif (player := self.players.get(event.s)) is not None:
            player.take(event)
        elif not 0 < event.s <= self.driver.sessions:  # else it is of an earlier step
            self.judge.blame(f"the driver wrote of session {event.s}, which is not there")
        self.judge.changed()

    # -- what the driver is told --

    def connect(
        self,
        *,
        tokens: Sequence[str] = ("token",),
        slot: int = 0,
        heartbeat: tuple[float, float] = NO_HEARTBEAT,
        attempts: int = 1_000,
        address: str = "",
    ) -> Player:
        """Connect a session. address: in place of the proxy's."""
        number = self.driver.sessions = self.driver.sessions + 1
        player = self.players[number] = Player(number, FIRST_UID + 2 * number, self.judge)
        host, port = self.proxy.address
        self.driver.tell(
            contract.Connect(
                s=number,
                address=address or f"{self.server.transport}://{host}:{port}",
                uid=str(player.uid),
                tokens=list(tokens),
                slot=slot,
                server_key=self._key.public.hex() if self._key is not None else "",
                backoff=BACKOFF,
                attempts=attempts,
                heartbeat=heartbeat,
            )
        )
        return player

    def send(self, player: Player, count: int, text: str = "") -> None:
        """Send the next `count` messages."""
        self.driver.tell(contract.Send(player.number, str(player.sent), count, text))
        player.sent += count

    def request(self, player: Player, n: int, number: int, seconds: float) -> None:
        """Send request `n`."""
        self.driver.tell(contract.Request(player.number, n, str(number), seconds))

    # -- what both do together --

    async def login(
        self, *, tokens: Sequence[str] = ("token",), heartbeat: tuple[float, float] = NO_HEARTBEAT, needs: int = 0
    ) -> Player:
        """A session that is connected. needs: features without which the step is skipped."""
        player = self.connect(tokens=tokens, heartbeat=heartbeat)
        await self.let_in(player, needs=needs)
        return player

    async def let_in(self, player: Player, *, needs: int = 0, address: str = "", window: int = RESUME_WINDOW) -> None:
        """Let the player in, which was told to connect. address, window: of its ticket."""
        connection = await self.server.accept("for the login")
        await self.server.greet(connection)
        if needs & ~connection.agreed.features:
            raise Skipped(f"HELLO does not offer {Features(needs & ~connection.agreed.features)!r}")
        self.server.let_in(connection, await self.server.read_login(connection), address, window)
        await self.connected(player)

    async def resume(self, player: Player, what: str = "to resume") -> None:
        """The client's next connection resumes the player."""
        before = player.resumed
        await self.until(lambda: self.server.waiting, f"a connection {what}", player)
        connection = await self.server.accept(what)
        await self.server.greet(connection)
        other, record = await self.server.read_resume(connection)
        if other is not player:
            raise Unmet(f"RESUME is for session {other.number}, not {player.number}")
        self.server.go_on(connection, player, record)
        await self.until(lambda: player.resumed > before, "`resumed` of the driver", player)

    async def exchange(self, *players: Player, count: int = 5, text: str = "") -> None:
        """Each side sends `count` messages, and all arrive, once and in order."""
        for player in players:
            self.send(player, count, text)
            player.scripted.send_counts(count, text)
        await self.settled(*players)

    async def finish(self) -> None:
        """One more message each way on every open session: nothing was lost before it, nothing came twice."""
        alive = [player for player in self.players.values() if player.connected and player.closed is None]
        if alive:
            self.server.serve()
            await self.exchange(*alive, count=1)
        self.judge.check()

    # -- what a step waits for --

    async def until(
        self, is_met: Callable[[], object], what: str, *players: Player, seconds: float | None = None
    ) -> None:
        """Wait until `is_met()` is true. Raises Unmet in `seconds`, and at once when one of the players closes."""
        await self.judge.until(lambda: is_met() or any(player.closed for player in players), what, seconds)
        for player in players:
            if player.closed is not None and not is_met():
                end = f"{player.closed.code} {player.closed.reason!r}"
                raise Unmet(f"{what}: session {player.number} closed with {end} instead")

    async def connected(self, player: Player) -> None:
        """Wait until the driver says that the player is connected."""
        await self.until(lambda: player.connected, "`connected` of the driver", player)

    async def broken(self, player: Player, why: str = "") -> None:
        """Wait until the driver says that the player lost its connection."""
        await self.until(lambda: player.suspended > player.resumed, f"`suspended` of the driver{why}", player)

    async def settled(self, *players: Player, seconds: float | None = None) -> None:
        """Wait until everything that was sent has arrived, both ways."""
        await self.until(lambda: all(map(_has_all, players)), "all messages both ways", *players, seconds=seconds)

    async def ended(self, player: Player, why: str) -> contract.Closed:
        """Wait until the driver says that the session has ended; how it did."""
        await self.until(lambda: player.closed is not None, f"`closed` {why}")
        assert player.closed is not None
        return player.closed

    async def closed(self, player: Player, code: int, reason: str | None = None) -> None:
        """Wait until the session has ended with this code, and with this reason if one is given."""
        closed = await self.ended(player, f"with {code}")
        if closed.code != code or reason not in (None, closed.reason):
            due = f"{code}" if reason is None else f"{code} {reason!r}"
            raise Unmet(f"closed with {closed.code} {closed.reason!r}, not with {due}")

    async def gone(self, player: Player, code: int, why: str) -> None:
        """The session can't go on. It ends with `code` and nothing dials, or the client says that it begins another."""
        if RESTARTS not in self.driver.ready.can:
            await self.closed(player, code)
            await self.no_dial(why)
            return
        player.scripted.is_gone = True
        connection = await self.server.accept("for a new session")
        await self.server.greet(connection)
        self.server.let_in(connection, await self.server.read_login(connection))
        await self.until(lambda: player.restarted, "`restarted` of the driver", player)

    async def no_frames(self, connection: ScriptedConnection, when: str, seconds: float) -> None:
        """Wait, and nothing comes on the connection, whose client is not let in yet."""
        await self.judge.never(lambda: connection.frames, f"the client sent something {when}", seconds)

    async def no_dial(self, why: str, seconds: float = QUIET) -> None:
        """Wait, and nothing dials meanwhile."""
        before = self.server.dials
        await self.judge.never(lambda: self.server.dials > before, f"the client dialled again {why}", seconds)


def _has_all(player: Player) -> bool:
    session = player.scripted
    return session.count_due == player.sent and player.delivered == session.counted
