"""The queue for requests of unverified connections: HTTP requests, HELLO, login requests.

Handling one of these costs up to a hundred times what a message does. So only so many are handled in one turn of the
loop, and the others wait for the next turns, in the order in which they came. However many connections ask for a login,
sessions are still read.
"""

import asyncio
from itertools import islice
from typing import Protocol

STEPS_A_TURN = 32
"""Steps in one turn of the loop: about 3 ms. A step handles what one read brought."""


class Stepping(Protocol):
    """The check of an unverified connection, whose peer has sent something."""

    def wait(self) -> None:
        """Read no more until `go_on`: other checks have this turn of the loop."""

    def go_on(self) -> None:
        """Handle what came."""


class StepQueue:
    """Lets the checks of one frontend go on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._late: dict[Stepping, None] = {}
        self._steps = 0  # in this turn of the loop

    def enter(self, check: Stepping) -> None:
        """Let `check` go on: at once, or in a later turn of the loop if others had this one."""
        if not self._steps:
            self._loop.call_soon(self._next_turn)
        if self._steps < STEPS_A_TURN:
            self._steps += 1
            check.go_on()
        else:
            self._late[check] = None
            check.wait()

    def leave(self, check: Stepping) -> None:
        """Forget `check`, which has ended; do nothing if it does not wait."""
        self._late.pop(check, None)

    def _next_turn(self) -> None:
        late, self._steps = list(islice(self._late, STEPS_A_TURN)), 0
        for check in late:
            if check in self._late:  # else an earlier one ended it
                del self._late[check]
                self.enter(check)
