"""The checks of one player: it receives every step once, in order, without a gap.

Steps and words of a visit to a room are numbered from 1, so a number shows what is
missing. Steps that were lost with a killed server are counted separately, and only while
the player knows of a kill.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Verdict:
    """The counts of all players together."""

    sent: int = 0  # steps and words
    told: int = 0  # of the player's own, back from the room
    heard: int = 0  # of others
    # sent to a server or over a gateway that was killed, and never received back
    died: int = 0
    untaken: int = 0  # refused by a room that no longer knew the player
    errors: dict[str, int] = field(default_factory=dict)  # by what was wrong

    def error(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


class Visit:
    """One player's stay in one room, its `number`-th."""

    __slots__ = ("_others", "_verdict", "number", "sent", "told", "uid")

    def __init__(self, uid: int, number: int, verdict: Verdict) -> None:
        self.uid = uid
        self.number = number
        self.sent = 0
        self.told = 0
        self._verdict = verdict
        self._others: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Own steps that have not come back yet."""
        return self.sent - self.told

    def next_number(self) -> int:
        self.sent += 1
        self._verdict.sent += 1
        return self.sent

    def hear(self, uid: int, number: int) -> None:
        """A player's step, from the room."""
        if uid == self.uid:
            self._hear_own(number)
        else:
            self._hear_other(uid, number)

    def refused(self, number: int) -> None:
        """A step was refused: the room's server died, and another one has the room."""
        if number > self.told:
            self._verdict.died += number - 1 - self.told
            self._verdict.untaken += 1
            self.told = number

    def end(self, died: bool) -> None:
        """The visit ends.

        Pending steps died with a server; if none died, they are lost.
        """
        if died:
            self._verdict.died += self.pending
        elif self.pending:
            self._verdict.errors["lost"] = (
                self._verdict.errors.get("lost", 0) + self.pending
            )
        self.told = self.sent

    def _hear_own(self, number: int) -> None:
        self._verdict.told += 1
        if number == self.told + 1:
            self.told = number
        elif number <= self.told:
            self._verdict.error("own step twice or out of order")
        else:
            self._verdict.error("own step missing")
            self.told = number

    def _hear_other(self, uid: int, number: int) -> None:
        self._verdict.heard += 1
        before = self._others.get(uid)
        if before is not None and number != before + 1 and number != 1:
            what = "twice or out of order" if number <= before else "missing"
            self._verdict.error(f"another's step {what}")
        self._others[uid] = number
