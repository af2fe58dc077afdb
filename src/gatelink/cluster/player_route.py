"""What a gateway keeps of each player: its session, and where its frames go."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from gatelink.cluster.links import Link
from gatelink.errors import LocalError
from gatelink.session.session import Session
from gatelink.session.timers import Item
from gatelink.wire.envelope import Encoded
from gatelink.wire.frames import Frame

MAX_CLAIMS = 0xFFFF
"""Bytes of a player's claims as JSON."""


class ForwardStats:
    """What one gateway has counted since its start."""

    def __init__(self) -> None:
        self.forwarded = 0  # frames, from players to servers
        self.pushed = 0  # frames, from servers to players
        self.lost: Counter[int] = Counter()  # frames that no server got, by server type
        self.misdirected = 0  # envelopes for sessions that are not here any more
        self.malformed = 0  # envelopes that were dropped
        self.rebinds = 0  # players whose server died or drains
        self.missed_binds = 0  # players who waited for a server, by its id, that did not come
        self.held = 0  # times that a player waited because there was no server


class Held:
    """What waits for a server of a type: envelopes of what was read, none perhaps; how the player comes to that."""

    __slots__ = ("envelopes", "timer", "why")

    def __init__(self, why: int, timer: Item) -> None:
        self.envelopes: list[Encoded] = []
        self.why = why
        self.timer = timer


def claims_text(claims: Mapping[str, Any]) -> str:
    """What a token said of a player, as JSON. Raises TypeError for what JSON has not, LocalError if it is too long."""
    if not claims:
        return ""
    text = msgspec.json.encode(dict(claims))
    if len(text) > MAX_CLAIMS:
        raise LocalError(f"claims of {len(text)} bytes; a service can be told {MAX_CLAIMS}")
    return text.decode()


class Router(Protocol):
    """Sends the frames of all players of a gateway to their servers."""

    def forward(self, route: "PlayerRoute", frames: list[Frame]) -> bool: ...


class PlayerRoute:
    """One player's session, and where its frames go (session.interfaces.Forwarder)."""

    __slots__ = ("_router", "claims", "held", "lagging", "links", "lost", "pinned", "session", "sid")

    def __init__(self, session: Session, router: Router, claims: str = "") -> None:
        self._router = router
        self.session = session
        self.claims = claims  # as a SessionOpened has them
        self.sid = session.epoch
        self.links: dict[int, Link] = {}  # by server type
        self.lost: dict[int, int] = {}  # by server type, since its last SessionOpened
        self.pinned: dict[int, int] = {}  # by server type: the id that `Bind` named, while that is not linked
        self.held: dict[int, Held] = {}  # by server type, while there is no server
        self.lagging: frozenset[Link] = frozenset()  # servers whose handlers lag behind this player

    def forward(self, frames: list[Frame]) -> bool:
        """Sends what came in one read on its way; False, and sends nothing, if a frame is not for a server."""
        return self._router.forward(self, frames)
