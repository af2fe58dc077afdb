"""A watch as the engines make it: the current entries, and the changes that its reader has not read yet."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from gatelink.cluster.engine import Change


class View:
    """A `Watch` that an engine writes. One reader iterates it.

    Unread changes are kept by key. So several changes of one key are reported as one, and a key that came and went
    unread is not reported. The memory is bounded by the entries and the keys that the reader knows. Iteration ends
    when the engine is closed.
    """

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self.entries: Mapping[str, bytes] = MappingProxyType(self._entries)
        self._reported: set[str] = set()  # keys that the reader knows
        self._unread: dict[str, None] = {}  # an ordered set
        self._wake = asyncio.Event()
        self._ended = False

    def open(self, entries: Mapping[str, bytes]) -> None:
        """Set the entries that the reader begins with."""
        self._entries.update(entries)
        self._reported.update(entries)

    def set(self, key: str, value: bytes | None) -> None:
        """Set the value of `key`; None if it is gone. The same value again is no change."""
        if self._entries.get(key) == value:
            return
        if value is not None:
            self._entries[key] = value
        else:
            del self._entries[key]
            if key not in self._reported:
                self._unread.pop(key, None)
                return
        self._unread[key] = None
        self._wake.set()

    def replace(self, entries: Mapping[str, bytes]) -> None:
        """Set all entries, after a time without changes."""
        for key in self._entries.keys() - entries.keys():
            self.set(key, None)
        for key, value in entries.items():
            self.set(key, value)

    def end(self) -> None:
        """End the iteration after the unread changes."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._unread))
        del self._unread[key]
        value = self._entries.get(key)
        if value is None:
            self._reported.discard(key)
        else:
            self._reported.add(key)
        return Change(key, value)
