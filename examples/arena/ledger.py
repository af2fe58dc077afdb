"""What one player checks: every step it was told of, its own and the others', in order, once, and none missing.

Steps and words of a visit to a room are numbered from 1, so the number alone tells what is missing. What a server took
with it when it was killed is missing, too: it is counted apart, and only while the player knows of a death.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Verdict:
    """What all players saw together."""

    sent: int = 0  # steps and words
    told: int = 0  # of the player's own, back from the room
    heard: int = 0  # of others
    died: int = 0  # sent to a server or over a gateway that was killed, and never told
    untaken: int = 0  # refused by a room that did not know the player any more, and said so
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
        """Own steps that nobody has told of yet."""
        return self.sent - self.told

    def next_number(self) -> int:
        self.sent += 1
        self._verdict.sent += 1
        return self.sent

    def hear(self, uid: int, number: int) -> None:
        """Somebody's step, told by the room."""
        if uid == self.uid:
            self._hear_own(number)
        else:
            self._hear_other(uid, number)

    def refused(self, number: int) -> None:
        """The room says that it did not take a step: it died and is another now. What came before died with it."""
        if number > self.told:
            self._verdict.died += number - 1 - self.told
            self._verdict.untaken += 1
            self.told = number

    def end(self, died: bool) -> None:
        """The visit is over. What is pending went down with a server; if none died, it is lost."""
        if died:
            self._verdict.died += self.pending
        elif self.pending:
            self._verdict.errors["lost"] = self._verdict.errors.get("lost", 0) + self.pending
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
