"""Ranks users by their part of a limit that all users share.

Over such a limit, the user that holds most gives way. So no user can push out the others.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import Generic, Protocol, TypeVar

_T = TypeVar("_T")
_K = TypeVar("_K")

LOOK_AT = 64
"""How many of an address's things are searched for one that belongs to a largest user."""


class _Totals(Generic[_K]):
    """A total for each key, and the key with the largest one. Of equal keys, the one that has its total for longest."""

    def __init__(self) -> None:
        self.of: dict[_K, int] = {}
        self._heap: list[tuple[int, int, _K]] = []  # an entry for each present total, and stale entries
        self._entry: dict[_K, int] = {}  # the number of a key's present entry
        self._numbers = count()

    def change(self, key: _K, total: int | None) -> None:
        """Set the total of a key. None removes the key."""
        if total is None:
            del self.of[key], self._entry[key]
        else:
            self.of[key] = total
            self._entry[key] = number = next(self._numbers)
            heappush(self._heap, (-total, number, key))
        if len(self._heap) > 2 * len(self.of) + 64:
            self._heap = [entry for entry in self._heap if self._entry.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def largest(self) -> tuple[_K, bool]:
        """The key with the largest total, and whether another has the same. There must be one."""
        first = self._top()
        heappop(self._heap)
        is_tied = bool(self.of) and len(self.of) > 1 and self._top()[0] == first[0]
        heappush(self._heap, first)
        return first[2], is_tied

    def _top(self) -> tuple[int, int, _K]:
        heap = self._heap
        while self._entry.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0]


class Ranking(Generic[_T]):
    """Things that users hold, each with a size, and which of them is to give way.

    address_key: the key under which a host is counted; None: each of its users counts alone.
    total: of all sizes.

    Adding, removing and asking take logarithmic time: thousands of sessions may break at once.
    """

    def __init__(self, address_key: Callable[[str], str | None] = lambda host: host) -> None:
        self._address_key = address_key
        self._things: dict[_T, tuple[int, Hashable, int]] = {}  # user, address, size
        self._users: _Totals[int] = _Totals()
        self._addresses: _Totals[Hashable] = _Totals()
        self._of_user: dict[int, dict[_T, None]] = {}  # the oldest first
        self._at_address: dict[Hashable, dict[_T, None]] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[_T]:
        return iter(self._things)

    def __contains__(self, thing: object) -> bool:
        return thing in self._things

    def add(self, thing: _T, uid: int, host: str, size: int = 1) -> None:
        """Add `thing`, which must not be in the ranking yet."""
        key = self._address_key(host)
        address: Hashable = uid if key is None else key
        self._things[thing] = uid, address, size
        self._of_user.setdefault(uid, {})[thing] = None
        self._at_address.setdefault(address, {})[thing] = None
        self._users.change(uid, self._users.of.get(uid, 0) + size)
        self._addresses.change(address, self._addresses.of.get(address, 0) + size)
        self.total += size

    def discard(self, thing: _T) -> None:
        """Remove `thing`, if it is in the ranking."""
        found = self._things.pop(thing, None)
        if found is None:
            return
        uid, address, size = found
        _take_out(self._of_user, self._users, uid, thing, size)
        _take_out(self._at_address, self._addresses, address, thing, size)
        self.total -= size

    def largest(self) -> _T:
        """The thing that gives way: the oldest of the largest user.

        Of equal users, a user at the address that holds most gives way. Raises IndexError if the ranking is empty.
        """
        if not self._things:
            raise IndexError("nothing is held")
        uid, is_tied = self._users.largest()
        if is_tied:
            most = self._users.of[uid]
            address, _ = self._addresses.largest()
            for thing in islice(self._at_address[address], LOOK_AT):
                if self._users.of[self._things[thing][0]] == most:
                    return thing
        return next(iter(self._of_user[uid]))


class Holder(Protocol):
    """Something of a user at an address."""

    uid: int
    address: str


_H = TypeVar("_H", bound=Holder)


def rank_by_size(
    holders: Iterable[tuple[_H, int]], address_key: Callable[[str], str | None] = lambda host: host
) -> Ranking[_H]:
    """Rank holders by the bytes that they hold. Of one user's holders, the one that holds most gives way first."""
    ranking: Ranking[_H] = Ranking(address_key)
    for holder, size in sorted(holders, key=lambda each: each[1], reverse=True):
        if size:
            ranking.add(holder, holder.uid, holder.address, size)
    return ranking


def _take_out(by: dict[_K, dict[_T, None]], totals: _Totals[_K], key: _K, thing: _T, size: int) -> None:
    things = by[key]
    del things[thing]
    if things:
        totals.change(key, totals.of[key] - size)
    else:
        del by[key]
        totals.change(key, None)
