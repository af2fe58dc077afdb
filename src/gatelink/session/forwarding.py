"""The tables by which a gateway forwards frames: one of all players, and one of each player."""

from collections.abc import Container, Mapping
from typing import Protocol

from gatelink._native import compiled
from gatelink.session.loop_context import LoopContext
from gatelink.session.straight_path import StraightPath


class PushStats(Protocol):
    """pushed: frames that servers sent to players. misdirected: deliveries for players that were not here."""

    pushed: int
    misdirected: int


@compiled
class ForwardTable:
    """The forwarding table of a gateway, which all its players share.

    context: that of their sessions. stats: counts the frames that they are sent. players: by sid.
    max_frame: bytes of the largest frame that a server may send to a player.
    table: the server type of each message id, 0 for none. handled_here: ids of the messages that have a handler in the
    gateway. is_holding: whether the frames of all players wait.
    """

    def __init__(
        self, context: LoopContext, stats: PushStats, max_frame: int, table: bytes, handled_here: Container[int]
    ) -> None:
        self.context = context
        self.stats = stats
        self.players: Mapping[int, ForwardPath] = {}
        self.max_frame = max_frame
        self.table = table
        self.handled_here = handled_here
        self.is_holding = False


@compiled
class ForwardPath:
    """One player of a gateway, and its session.

    sid: its number between the gateway and the services. routes: by server type; each has the link to the player's
    server, and the number of frames that the server has not handled.

    The compiled core queues the frames of a read on the link to the player's server. If it can't, it calls `forward_to`
    with a ClientFrame.
    """

    __slots__ = ("router", "routes", "session", "sid")

    def __init__(self, router: ForwardTable, session: StraightPath, sid: int) -> None:
        self.router = router
        self.session = session
        self.sid = sid
        self.routes: Mapping[int, object] = {}

    def forward_to(self, type: int, envelope: bytes, count: int) -> None:
        """Send a ClientFrame of `count` frames to the player's server of a type."""
        raise NotImplementedError
