"""Which type of server a message belongs to: `id // 1000`, unless a route says otherwise."""

import re
from collections.abc import Mapping

from gatelink.errors import ConfigError
from gatelink.wire.base import FIRST_APPLICATION_ID, FRAMEWORK_IDS, LAST_APPLICATION_ID

IDS = 65_536
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Routes:
    """A server type for every message id; 0 where no server may get it.

    ranges: `{"12000-12099": 30, "14007": 30}`, ids to server type (1..255); 0 for ids that are nobody's. They may
    name the ids below 11000 that belonged to the original engine, too, but never the framework's.

    Raises ConfigError naming the range that cannot be.
    """

    def __init__(self, ranges: Mapping[str, int] | None = None) -> None:
        table = bytearray(IDS)
        for id in range(FIRST_APPLICATION_ID, LAST_APPLICATION_ID + 1):
            table[id] = id // 1000
        taken: dict[int, str] = {}
        for text, type in (ranges or {}).items():
            if not 0 <= type <= 255:
                raise ConfigError(f"route {text!r} to type {type}; server types are 1 to 255, 0 for nobody")
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
