"""What is to happen at which position of something that only grows: bytes delivered, or seconds."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from math import inf


class Schedule:
    """Actions by position. Those at the same position happen in the order they were added."""

    def __init__(self) -> None:
        self.next = inf  # the first position at which something happens
        self._added = 0
        self._heap: list[tuple[float, int, Callable[[], None], Iterator[float]]] = []

    def add(self, positions: Iterator[float], action: Callable[[], None]) -> None:
        """Let `action` happen at each of `positions`, which ascend and may be endless."""
        self._added += 1
        self._push(self._added, action, positions)

    def advance(self, position: float) -> None:
        """Let everything up to `position` happen."""
        while self.next <= position:
            _, order, action, positions = heappop(self._heap)
            self._push(order, action, positions)
            action()

    def clear(self) -> None:
        """Let nothing more happen."""
        self._heap.clear()
        self.next = inf

    def _push(self, order: int, action: Callable[[], None], positions: Iterator[float]) -> None:
        if (position := next(positions, None)) is not None:
            heappush(self._heap, (position, order, action, positions))
        self.next = self._heap[0][0] if self._heap else inf
