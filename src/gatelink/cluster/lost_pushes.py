"""Frames for players that were lost with the link to their gateway, until the gateway is told on its next link."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from gatelink.cluster.links import GATEWAY, Link
from gatelink.wire.envelope import LOST_PUSHES, MAX_COUNTS, handled_counts, pushed_counts

MAX_LOST = 65_536
"""Players whose losses wait for the link to their gateway. The losses of further players are not reported."""

_NONE: Mapping[int, int] = MappingProxyType({})


class LostPushes:
    """The losses of one service, by gateway and sid."""

    def __init__(self) -> None:
        self._lost: dict[int, Counter[int]] = {}
        self._noted: set[Link] = set()  # links that are not closed yet, and whose losses are in it

    def note(self, link: Link) -> Mapping[int, int]:
        """Take the frames that are still in a link as lost. Returns their number by sid, once for each link."""
        lost: Counter[int] = Counter()
        for each in (*link.undelivered, *link.session.outbox.frames()):
            for sid, count in pushed_counts(each):
                lost[sid] += count
        if not lost or link.type != GATEWAY or link in self._noted:
            return _NONE
        self._noted.add(link)
        if sum(map(len, self._lost.values())) + len(lost) <= MAX_LOST:
            self._lost[link.id] = lost
        return lost

    def closed(self, link: Link) -> None:
        """Forget that the losses of a link were noted: it is closed."""
        self._noted.discard(link)

    def report(self, link: Link) -> None:
        """Tell a gateway on its new link what was lost on the link before, if it takes such reports."""
        lost = list(self._lost.pop(link.id, {}).items())
        if link.takes_reports:
            for at in range(0, len(lost), MAX_COUNTS):
                link.send_whole(handled_counts(lost[at : at + MAX_COUNTS], LOST_PUSHES))
