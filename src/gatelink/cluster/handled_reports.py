"""Reports of a service to gateways: how many frames of each player its handlers have handled.

A gateway counts the frames that were not reported as lost, when the service dies.
"""

from functools import partial

from gatelink.cluster.links import Link
from gatelink.cluster.player import Player
from gatelink.session.timers import Item, Wheel
from gatelink.wire.envelope import MAX_COUNTS, handled_counts

REPORT_SECONDS = 0.2
"""Seconds between two reports of handled frames. Frames handled since the last report count as lost at a death."""


class HandledReports(Item):
    """The reports of one service, on the links whose other end takes them.

    unreported: the players with frames that are not reported as handled, by link. `Players` adds them as frames come.
    """

    __slots__ = ("_wheel", "unreported")

    def __init__(self, wheel: Wheel) -> None:
        self._tick = 0
        self._wheel = wheel
        self.unreported: dict[Link, list[Player]] = {}

    def begin(self, link: Link) -> None:
        """Report on a link at intervals, and before this service closes it. Does nothing if its other end is older."""
        if not link.takes_reports:
            return
        if not self.unreported:
            self._wheel.set(self, REPORT_SECONDS)
        self.unreported[link] = []
        link.before_close = partial(self._report, link)

    def end(self, link: Link) -> None:
        """Report no more on a link, which is closed."""
        self.unreported.pop(link, None)

    def on_deadline(self, now: float) -> None:
        for link in self.unreported:
            self._report(link)
        if self.unreported:
            self._wheel.set(self, REPORT_SECONDS)

    def _report(self, link: Link) -> None:
        players = self.unreported.get(link, [])
        counts: list[tuple[int, int]] = []
        left: list[Player] = []
        for player in players:
            count = player.taken - player.unhandled - player.reported
            if count > 0:
                player.reported += count
                counts.append((player.sid, count))
            if player.reported < player.taken:
                left.append(player)
        players[:] = left
        for at in range(0, len(counts), MAX_COUNTS):
            link.send_whole(handled_counts(counts[at : at + MAX_COUNTS]))
