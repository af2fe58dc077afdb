"""A ledger of numbered messages: each must come once, and in order."""

from collections import Counter


class Ledger:
    """One session's messages of one direction, numbered from 0 by their sender."""

    __slots__ = ("_missing", "doubled", "next", "reordered")

    def __init__(self) -> None:
        self.next = 0  # the number that is due
        self.doubled = 0
        self.reordered = 0  # came after a later one
        self._missing: set[int] = set()  # passed over, and not come since

    def take(self, number: int) -> None:
        """Note message `number`."""
        if number == self.next:
            self.next += 1
        elif number > self.next:
            self._missing.update(range(self.next, number))
            self.next = number + 1
        elif number in self._missing:
            self._missing.remove(number)
            self.reordered += 1
        else:
            self.doubled += 1

    def losses(self, sent: int) -> Counter[str]:
        """How many of `sent` messages were `lost`, `doubled` and `reordered`."""
        lost = len(self._missing) + max(0, sent - self.next)
        return Counter(lost=lost, doubled=self.doubled, reordered=self.reordered)
