"""A player's route to the servers of one type: its states, and how it comes to a server and away from it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Protocol

from gatelink.cluster.links import Link
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.errors import CloseCode
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.loop_context import LoopContext
from gatelink.session.session import Session
from gatelink.session.states import SessionState, step
from gatelink.session.stream import Pause
from gatelink.session.timers import Item
from gatelink.wire import envelope
from gatelink.wire.envelope import MOVED, NEW, RETURNED, SERVER_DIED, Encoded, sid_and_count

quiet = RateLimitedLogger(Logger("gatelink.gateway"))

MAX_LEAVING = 65_536
"""Players that left one server with unhandled frames. Over this number, their frames are not counted when it dies."""


class RouteState(Enum):
    """The state of one player's route to the servers of one type."""

    UNBOUND = auto()
    """The player has no server of the type. Its next frame binds it to one."""
    BOUND = auto()
    """The player's frames go to one server."""
    WAITING = auto()
    """No server of the type is there. The player gets the next one that comes, or none after `hold_seconds`."""
    PINNED = auto()
    """The player waits for one particular server: `bind` named it, or it died under the rule `hold`."""


class RouteEvent(Enum):
    BIND = auto()
    """A server gets the player."""
    UNBIND = auto()
    """The server loses the player: it died or drains, the player left, or `bind` names another server."""
    WAIT = auto()
    """No server of the type is there."""
    PIN = auto()
    """The particular server that the player must get is not there."""
    UNPIN = auto()
    """The player no longer waits for a particular server: any server of the type will do."""
    STOP = auto()
    """The wait is over: no server came in time, or the player left."""


_S, _E = RouteState, RouteEvent

ROUTE = {
    (_S.UNBOUND, _E.BIND): _S.BOUND,
    (_S.UNBOUND, _E.WAIT): _S.WAITING,
    (_S.UNBOUND, _E.PIN): _S.PINNED,
    (_S.BOUND, _E.UNBIND): _S.UNBOUND,
    (_S.WAITING, _E.BIND): _S.BOUND,
    (_S.WAITING, _E.PIN): _S.PINNED,
    (_S.WAITING, _E.STOP): _S.UNBOUND,
    (_S.PINNED, _E.BIND): _S.BOUND,
    (_S.PINNED, _E.PIN): _S.PINNED,
    (_S.PINNED, _E.UNPIN): _S.WAITING,
    (_S.PINNED, _E.STOP): _S.UNBOUND,
}


class ForwardStats:
    """The counters of one gateway, since its start."""

    def __init__(self) -> None:
        self.forwarded = 0  # frames from players to servers
        self.pushed = 0  # frames from servers to players
        self.lost: Counter[int] = Counter()  # frames that no server got, by server type
        self.misdirected = 0  # deliveries and events for sessions that are not here any more
        self.malformed = 0  # envelopes that were dropped
        self.rebinds = 0  # players whose server died or drains
        self.missed_binds = 0  # players that waited for a particular server in vain
        self.held = 0  # times that a player waited because there was no server


class RoutedPlayer(Protocol):
    """The player whose route it is: `player_route.PlayerRoute`."""

    session: Session
    sid: int
    claims: str

    def send(self, route: "TypeRoute", link: Link, envelope: Encoded, count: int) -> None:
        """Queue an envelope of `count` frames on the link of the route."""

    def lose_requests(self, type: int, unsent: Iterable[Encoded]) -> None:
        """Tell the player that no answer comes to its requests to a server, except those in `unsent`."""

    def read_on(self) -> None:
        """Resume reading from the player, for each reason that no route has any more."""


class Router(Protocol):
    """The state that all routes of a gateway share: `player_route.PlayerRouter`.

    bound, crowded: routes by link. waiting: routes by server type. leaving: by link and sid, the unhandled frames of
    players that have left the server. fresh: by server id, the players bound since the server's last keepalive.
    """

    context: LoopContext
    stats: ForwardStats
    bound: dict[Link, set["TypeRoute"]]
    crowded: dict[Link, set["TypeRoute"]]
    waiting: dict[int, set["TypeRoute"]]
    leaving: dict[Link, dict[int, int]]
    fresh: Counter[int]

    def rules_of(self, type: int) -> Rules:
        """The rules of a type of server."""

    def pick(self, route: "TypeRoute") -> Link | None:
        """Choose a server for a player: the link to it, or None if no server is there now."""

    def count_lost(self, type: int, envelopes: Iterable[Encoded]) -> None:
        """Count the frames in `envelopes` as lost."""


class TypeRoute:
    """One player's route to the servers of one type.

    player: the player whose route it is. state: a state of the table ROUTE. link: to the player's server, while BOUND.
    pinned: the id of the server to wait for, while PINNED. 0: any server.
    held: envelopes that wait for a server, while WAITING or PINNED. Reading from the player is paused while there are
    any.
    arrival: why the player will come to its next server, for its SessionOpened.
    lost: frames that no server got, or handled, since the last SessionOpened.
    unhandled: frames that were queued for the server, and that it has not reported as handled.
    binding: the number of times that a server of the type got the player.
    is_crowded: the link's queue is too long. is_lagging: the server's handlers lag behind this player's messages.
    """

    __slots__ = (
        "_router",
        "_timer",
        "arrival",
        "binding",
        "held",
        "is_crowded",
        "is_lagging",
        "link",
        "lost",
        "pinned",
        "player",
        "state",
        "type",
        "unhandled",
    )

    def __init__(self, player: RoutedPlayer, router: Router, type: int) -> None:
        self.player = player
        self._router = router
        self._timer: Item | None = None
        self.type = type
        self.state = RouteState.UNBOUND
        self.link: Link | None = None
        self.pinned = 0
        self.held: list[Encoded] = []
        self.arrival: int = NEW
        self.lost = 0
        self.unhandled = 0
        self.binding = 0
        self.is_crowded = False
        self.is_lagging = False

    @property
    def is_waiting(self) -> bool:
        """Whether the player waits for a server of the type."""
        return self.state is RouteState.WAITING or self.state is RouteState.PINNED

    def _step(self, event: RouteEvent) -> None:
        self.state = step(ROUTE, self.state, event)

    # -- frames --

    def forward(self, envelope: Encoded) -> None:
        """Queue an envelope of the player's frames: on the link of its server, or here until there is a server."""
        if self.link is None and not self.is_waiting:
            self.bind(SERVER_DIED if self.lost else NEW)
        if self.link is not None:
            self.player.send(self, self.link, envelope, sid_and_count(envelope)[1])
        elif self._router.rules_of(self.type).on_death is OnDeath.DROP:
            self._router.count_lost(self.type, [envelope])
        else:
            self.wait(SERVER_DIED if self.lost else NEW, [envelope])

    # -- to a server and away from it --

    def bind(self, arrival: int) -> bool:
        """Bind the player to a server of the type and send the held envelopes; False if there is no server."""
        link = self._router.pick(self)
        if link is None:
            return False
        held = self._end_wait() if self.is_waiting else []
        self._step(RouteEvent.BIND)
        self.link = link
        self.pinned = 0
        self._router.bound.setdefault(link, set()).add(self)
        self._router.fresh[link.id] += 1
        self.unhandled = self._router.leaving.get(link, {}).pop(self.player.sid, 0)
        self.binding += 1
        link.send_event(self._opening(link, arrival))
        for each in held:
            self.player.send(self, link, each, sid_and_count(each)[1])
        self.player.read_on()
        return True

    def _opening(self, link: Link, arrival: int) -> envelope.SessionOpened:
        session = self.player.session
        lost, self.lost = min(self.lost, 0xFFFFFFFF), 0
        if session.returned:
            arrival |= RETURNED
        opening = (
            self.player.sid, session.uid, session.slot, session.epoch, session.address, arrival, lost,
            self.player.claims,
        )  # fmt: skip
        if not link.speaks_requests:
            return envelope.SessionOpened(*opening)
        features = session.extension.features if session.extension is not None else 0
        flags = envelope.HAS_CONNECTION if session.state is SessionState.OPEN else 0
        return envelope.SessionOpenedFully(*opening, features, self.binding, flags, session.expires_in)

    def unbind(self, link: Link, code: CloseCode) -> None:
        """Take the player from its server, which gets SessionClosed.

        The player stays in its groups: they belong to all servers of the type.
        """
        self._router.bound[link].discard(self)
        if self.unhandled and link.takes_reports:
            leaving = self._router.leaving.setdefault(link, {})
            if len(leaving) < MAX_LEAVING:
                leaving[self.player.sid] = self.unhandled
        self.unhandled = 0
        link.send_event(envelope.SessionClosed(self.player.sid, code))
        self.forget_link(link)

    def forget_link(self, link: Link, unsent: Iterable[Encoded] = ()) -> None:
        """Take the player from a server that may be dead. Nothing is sent to it.

        Its requests to that server fail, except those in `unsent`, which the next server gets.
        """
        self.player.lose_requests(self.type, unsent)
        self._step(RouteEvent.UNBIND)
        self.link = None
        if self.is_crowded:
            self.is_crowded = False
            self._router.crowded[link].discard(self)
        self.is_lagging = False
        self.player.read_on()

    def bind_to(self, server: int) -> None:
        """Obey a Bind: move the player to that server, or let it wait for it. Server 0 lets the gateway choose."""
        before = self.link
        if before is not None:
            if before.id == server:
                return
            self.unbind(before, CloseCode.NORMAL)
        if self.is_waiting:
            if server:
                self._step(RouteEvent.PIN)
            elif self.state is RouteState.PINNED:
                self._step(RouteEvent.UNPIN)
            self.pinned = server
            self.bind(self.arrival)
        elif server:
            self.pinned = server
            self.bind_or_wait(MOVED if before is not None else NEW)

    def rebind(self, link: Link, code: CloseCode) -> None:
        """Move the player to another server of the type, or let it wait for one."""
        self.unbind(link, code)
        self._router.stats.rebinds += 1
        self.bind_or_wait(MOVED)

    def server_died(self, link: Link, unsent: list[Encoded]) -> None:
        """The player's server died: apply the rules of the type. unsent: the player's envelopes that were not sent."""
        self.forget_link(link, unsent)
        rule = self._router.rules_of(self.type).on_death
        if rule is OnDeath.CLOSE:
            self._router.count_lost(self.type, unsent)
            self.player.session.close(CloseCode.GOING_AWAY, "the server behind it is gone")
            return
        self._router.stats.rebinds += 1
        if rule is OnDeath.HOLD:
            self.pinned = link.id
        self.bind_or_wait(SERVER_DIED, unsent)

    # -- while there is no server --

    def bind_or_wait(self, arrival: int, envelopes: Sequence[Encoded] = ()) -> None:
        """Bind the player and send `envelopes`. Without a server hold them, or lose them if the rule is to drop."""
        if self.bind(arrival):
            for each in envelopes:
                self.forward(each)
        elif self._router.rules_of(self.type).on_death is OnDeath.DROP:
            self.pinned = 0
            self._router.count_lost(self.type, envelopes)
        else:
            self.wait(arrival, envelopes)

    def wait(self, arrival: int, envelopes: Sequence[Encoded]) -> None:
        """Hold `envelopes` until a server comes, at most until the type's `hold_seconds` after the wait began."""
        if not self.is_waiting:
            self._step(RouteEvent.PIN if self.pinned else RouteEvent.WAIT)
            self.arrival = arrival
            seconds = self._router.rules_of(self.type).hold_seconds
            self._timer = self._router.context.wheel.call(seconds, self._no_server_came)
            self._router.waiting.setdefault(self.type, set()).add(self)
            self._router.stats.held += 1
        if envelopes:
            self.held += envelopes
            self.player.session.pause(Pause.LINK)

    def _end_wait(self) -> list[Encoded]:
        """Stop the timer; return the held envelopes, which the caller must send or count as lost."""
        if self._timer is not None:
            self._router.context.wheel.cancel(self._timer)
            self._timer = None
        waiting = self._router.waiting[self.type]
        waiting.discard(self)
        if not waiting:
            del self._router.waiting[self.type]
        held, self.held = self.held, []
        return held

    def _no_server_came(self) -> None:
        """`hold_seconds` are over: any server of the type will do. Without one the held envelopes are lost."""
        uid = self.player.session.uid
        if self.state is RouteState.PINNED:
            self._router.stats.missed_binds += 1
            quiet.error(
                "the server that a player waits for did not come: another gets it",
                uid=uid,
                type=self.type,
                server=self.pinned,
            )
            self._step(RouteEvent.UNPIN)
            self.pinned = 0
        if not self.bind(self.arrival):
            if self.held:
                quiet.error("no server came for a player's messages: they are lost", type=self.type, uid=uid)
            self._stop_waiting()
            self.player.read_on()

    def _stop_waiting(self) -> None:
        held = self._end_wait()
        self._step(RouteEvent.STOP)
        self.pinned = 0
        self._router.count_lost(self.type, held)

    def close(self, code: CloseCode) -> None:
        """The player left: send its server SessionClosed; the held envelopes are lost."""
        if self.link is not None:
            self.unbind(self.link, code)
        elif self.is_waiting:
            self._stop_waiting()
