"""The promise about line numbers, for one robot.

1. `JoinedRoom(room, n)` begins a stay in the room. Its lines are n, n + 1, n + 2, ...: no
   gap, no repeat, no line of another room, until the next `JoinedRoom`.
2. A break ends the stay. Lines that the server had queued come first on the next
   connection; lines on their way are lost. So there may be a gap before the first of
   them, and none after it. A user's session may have broken before this robot began, so
   it begins as after a break.
3. In every room numbers only grow: `JoinedRoom` never has a number that was seen. Lines
   between the last line and a `JoinedRoom` after a break belong to the gap of that break.
"""

from collections.abc import Callable


class LineCheck:
    """Checks the lines of one robot.

    fail: called with what was seen and what was expected.
    """

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self._room: str | None = None
        self._next: dict[str, int] = {}  # for each room, the next number
        self._broke = True  # since the last JoinedRoom
        self._gap_allowed = True  # nothing came since the break
        self._missed = 0  # lines since the break

    def joined(self, room: str, number: int) -> int:
        """A stay begins. Returns how many lines were missed over a break before it."""
        expected = self._next.get(room, number)
        if number < expected:
            self._fail(
                f"joined {room} at line {number}; expected {expected} or more, "
                f"{expected - 1} was there before"
            )
        elif self._broke and room == self._room:
            self._missed += number - expected
        missed, self._missed = self._missed, 0
        self._room = room
        self._next[room] = max(number, expected)
        self._broke = self._gap_allowed = False
        return missed

    def line(self, room: str, number: int) -> None:
        """A line came."""
        if self._room is None:
            self._room = room
        elif room != self._room:
            self._fail(f"line {number} of room {room}; expected lines of {self._room}")
            return
        expected = self._next.get(room, number)
        if number < expected:
            self._fail(f"line {number} of room {room} again or late; expected {expected}")
            return
        if number > expected:
            if self._gap_allowed:
                self._missed += number - expected
            else:
                self._fail(
                    f"line {number} of room {room}; expected {expected}, "
                    f"{number - expected} missing"
                )
        self._gap_allowed = False
        self._next[room] = number + 1

    def broke(self) -> None:
        """The connection broke, or one side closed it."""
        self._broke = self._gap_allowed = True
