"""How a gateway routes: the server type of each message, and the rules for each type of server."""

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from gatelink.errors import ConfigError
from gatelink.wire.base import FIRST_APPLICATION_ID, FRAMEWORK_IDS, LAST_APPLICATION_ID

IDS = 65_536
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Routes:
    """A server type for every message id: `id // 1000`, unless a range says otherwise; 0 where no server may get it.

    ranges: `{"12000-12099": 30, "14007": 30}`, ids to server type (1..255); 0 for ids that no server may get. They may
    name ids below 11000, which belonged to the original engine, but not the framework's ids.

    Raises ConfigError, which names the invalid range.
    """

    def __init__(self, ranges: Mapping[str, int] | None = None) -> None:
        table = bytearray(IDS)
        for id in range(FIRST_APPLICATION_ID, LAST_APPLICATION_ID + 1):
            table[id] = id // 1000
        taken: dict[int, str] = {}
        for text, type in (ranges or {}).items():
            if not 0 <= type <= 255:
                raise ConfigError(f"route {text!r} to type {type}; server types are 1 to 255, 0 for no server")
            for id in _ids(text):
                if id in taken:
                    raise ConfigError(f"routes {taken[id]!r} and {text!r} both have id {id}; each id has one route")
                taken[id] = text
                table[id] = type
        self.table = bytes(table)
        """The type by id."""
        self.types = frozenset((ranges or {}).values()) - {0}
        """The types that `ranges` name."""


def _ids(text: str) -> range:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ConfigError(f"route {text!r} is not an id or a range of ids; write it as 12000 or 12000-12099")
    first, last = match.groups()
    ids = range(int(first), int(last or first) + 1)
    if not ids or not 5 <= ids[0] <= ids[-1] <= LAST_APPLICATION_ID or not FRAMEWORK_IDS.isdisjoint(ids):
        raise ConfigError(
            f"route {text!r}: ids are 5 to {LAST_APPLICATION_ID}, the lower first, without the framework's "
            "24 and 100 to 199"
        )
    return ids


class Pick(Enum):
    """How a server is picked for a player that has none of its type."""

    LEAST_LOADED = "least-loaded"
    """The one with the fewest players: those of its last keepalive, and those bound here since then."""
    RENDEZVOUS = "rendezvous"
    """By a hash of the uid (Thaler and Ravishankar, 1998): a player gets the same server as long as that is there, and
    few players move when a server comes or goes."""


class OnDeath(Enum):
    """What happens to the players of a server that died."""

    REBIND = "rebind"
    """Another server of the type gets them, and a count of their lost frames."""
    CLOSE = "close"
    """Their sessions are closed with 4011 going-away."""
    HOLD = "hold"
    """They wait up to `hold_seconds` for a server of the same id; then they are rebound."""
    DROP = "drop"
    """As `rebind`, but players never wait: without a server of the type, messages for it are dropped at once."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How gateways treat one type of server.

    hold_seconds: how long a player waits while there is no server. give_up_seconds: how long a gateway may hear nothing
    of a server until its players go to another one that is well; at least `heartbeat_timeout` of the links. With
    OnDeath.HOLD they do not.
    """

    pick: Pick = Pick.LEAST_LOADED
    on_death: OnDeath = OnDeath.REBIND
    hold_seconds: float = 5.0
    give_up_seconds: float = 10.0
