"""How a gateway picks a server for a player, and what it does when that server dies."""

from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import blake2b

import msgspec

from gatelink.cluster.links import Link


class Pick(Enum):
    """How a server is picked for a player that is bound to none of its type."""

    LEAST_LOADED = "least-loaded"
    """The one with the fewest players, as far as its last keepalive and our own choices since then tell."""
    RENDEZVOUS = "rendezvous"
    """By a hash of the uid (Thaler and Ravishankar, 1998): the same player comes to the same server as long as that is
    there, and few players move when one comes or goes."""


class OnDeath(Enum):
    """What becomes of the players whose server died."""

    REBIND = "rebind"
    """Another server of the type gets them, and is told how many of their frames were lost."""
    CLOSE = "close"
    """Their sessions end with 4011 going-away."""
    HOLD = "hold"
    """They wait for a server of the same id to come back, up to `hold_seconds`; then they are rebound."""
    DROP = "drop"
    """As `rebind`, but nobody ever waits: while no server of the type is there, messages for it are lost at once."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How gateways treat one type of server. hold_seconds: how long a player waits while there is no server."""

    pick: Pick = Pick.LEAST_LOADED
    on_death: OnDeath = OnDeath.REBIND
    hold_seconds: float = 5.0


def pick(links: Sequence[Link], how: Pick, uid: int, fresh: Callable[[int], int]) -> Link | None:
    """One of `links` for a player; None of none. fresh: players that we bound to a server since its last keepalive."""
    if not links:
        return None
    if how is Pick.RENDEZVOUS:
        return max(links, key=lambda link: _rank(uid, link.id))
    return min(links, key=lambda link: (link.info.load.sessions + fresh(link.id), link.id))


def _rank(uid: int, server: int) -> bytes:
    return blake2b(uid.to_bytes(8, "little") + server.to_bytes(8, "little"), digest_size=8).digest()
