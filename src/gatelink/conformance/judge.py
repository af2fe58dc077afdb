"""What a step waits for, and what it finds wrong."""

import asyncio
from collections.abc import Callable

MAX_FAULTS = 20
"""Faults of one step. With more, the step gives up: a driver that does one thing wrong often repeats it without end."""


class Unmet(Exception):
    """A step's promise is not kept; the text says what was seen and what was due."""


class Judge:
    """The faults that one step has found, and its waits.

    patience: seconds for which the step waits for anything that is due.
    faults: what the client did against the protocol. end: why the driver can't go on, once that is so.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.faults: list[str] = []
        self.end: str | None = None
        self._changed = asyncio.Event()

    def blame(self, fault: str) -> None:
        """Note something that the client may not do."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)
            self.changed()
        else:
            self.give_up(f"more than {MAX_FAULTS} faults")

    def give_up(self, why: str) -> None:
        """End every wait with `why`: the driver is of no use any more."""
        self.end = self.end or why
        self.changed()

    def changed(self) -> None:
        """Wake what waits, to look again: something happened."""
        self._changed.set()

    def check(self) -> None:
        """Raise Unmet if there is a fault, or the driver is of no use any more."""
        if self.faults:
            raise Unmet(self.faults[0] + (f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""))
        if self.end is not None:
            raise Unmet(self.end)

    async def until(self, is_met: Callable[[], object], what: str, seconds: float | None = None) -> None:
        """Wait until `is_met()` is true. Raises Unmet after `seconds`, or at the first fault."""
        seconds = seconds or self.patience
        try:
            async with asyncio.timeout(seconds):
                while not self._is(is_met):
                    await self._changed.wait()
        except TimeoutError:
            raise Unmet(f"{what}: not within {seconds:g} s") from None

    async def never(self, happens: Callable[[], object], what: str, seconds: float) -> None:
        """Wait `seconds`. Raises Unmet if `happens()` becomes true, or at the first fault."""
        try:
            async with asyncio.timeout(seconds):
                while not self._is(happens):
                    await self._changed.wait()
        except TimeoutError:
            return
        raise Unmet(what)

    def _is(self, condition: Callable[[], object]) -> bool:
        self.check()
        self._changed.clear()
        return bool(condition())
