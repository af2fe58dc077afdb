"""The promise about line numbers, as one robot sees it.

1. `Joined(room, n)` begins a stay in the room. The stay's lines are n, n + 1, n + 2, ...: no gap, no repeat, no line of
   another room, until the next `Joined`.
2. A break ends the stay. Lines of it that the server had queued and not sent come first on the next connection; what was
   on its way is lost, so a gap may lie between the last line before the break and the first after it, and nowhere else.
3. In every room numbers only grow: `Joined` never gives one that was seen.
"""

from collections.abc import Callable


class LineCheck:
    """Checks the lines that one robot sees. fail: called with what was seen and what was expected.

    gaps: breaks with a gap; missed: how many lines were in those gaps, as far as the robot came back to the room.
    """

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self._room: str | None = None
        self._next: dict[str, int] = {}  # the number of each room's next line, as far as seen
        self._broke = False  # a break, and no line or Joined of the room since
        self.gaps = 0
        self.missed = 0

    def joined(self, room: str, number: int) -> None:
        """A stay begins."""
        expected = self._next.get(room, number)
        if number < expected:
            self._fail(f"joined {room} at line {number}; {expected} or more was expected, {expected - 1} was seen")
        elif self._broke and room == self._room:
            self._gap(number - expected)
        self._room = room
        self._broke = False
        self._next[room] = max(number, expected)

    def line(self, room: str, number: int) -> None:
        """A line came."""
        if room != self._room:
            self._fail(f"line {number} of {room} while in {self._room}")
            return
        expected = self._next[room]
        if number < expected:
            self._fail(f"line {number} of {room} again or late; {expected} was expected")
            return
        if self._broke:
            self._gap(number - expected)
        elif number > expected:
            self._fail(f"line {number} of {room}; {expected} was expected, {number - expected} are missing")
        self._broke = False
        self._next[room] = number + 1

    def broke(self) -> None:
        """The connection broke, or was closed."""
        self._broke = True

    def _gap(self, missed: int) -> None:
        self.gaps += missed > 0
        self.missed += missed
