"""One load test: robots of one scenario against one address, in this process and event loop."""

import asyncio
from collections.abc import Callable

from gatelink.robots.robot import Robot
from gatelink.robots.tally import Tally

ENDING = 10
"""Seconds that robots may take to end: twice the longest time that a session takes to close."""


class LoadTest:
    """One load test, for one call of `run`.

    address: an argument of `connect`. count: robots. seconds: its length, with the ramp. ramp: seconds over which the
    robots start, one after the other. seed: robots with the same seed and number draw the same random numbers.
    """

    def __init__(
        self, scenario: type[Robot], *, address: str, count: int, seconds: float, ramp: float = 0.0, seed: int = 0
    ) -> None:
        """Raises CatalogError for a handler of the scenario that names no message."""
        self.seconds = seconds
        self.ramp = ramp
        self.tally = Tally()
        self.robots = [scenario(number, address, self.tally, seed) for number in range(count)]
        self._alive: set[Robot] = set()
        self._lives: asyncio.Task[None]

    async def run(self, on_second: Callable[[], None] = lambda: None) -> Tally:
        """Run until the time is over or all robots are done, then close their sessions. Returns the tally.

        on_second: called after each second. A robot that has not ended ENDING seconds later counts as an error.
        """
        self.tally.start()
        self._lives = asyncio.create_task(self._live())
        ticker = asyncio.create_task(self._tick(on_second))
        try:
            await asyncio.wait([self._lives, ticker], timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._lives.cancel()
            await asyncio.wait([self._lives], timeout=ENDING)
            ticker.cancel()
            await asyncio.wait([ticker])
        for robot in self._alive:
            robot.fail(f"did not end within {ENDING} s of the end of the run")
        for task in (self._lives, ticker):
            if task.done() and not task.cancelled():
                task.result()
        self.tally.end_second()
        return self.tally

    def stop(self) -> None:
        """End the run now, as if its time were over."""
        self._lives.cancel()

    async def _live(self) -> None:
        """Run all robots. When it is cancelled, it waits until all have disconnected."""
        pause = self.ramp / max(1, len(self.robots))
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.TaskGroup() as group:
            for robot in self.robots:
                group.create_task(self._live_one(robot))
                delay = start + (robot.number + 1) * pause - loop.time()
                if delay > 0:
                    await asyncio.sleep(delay)

    async def _live_one(self, robot: Robot) -> None:
        self._alive.add(robot)
        try:
            await robot.live()
        finally:
            self._alive.discard(robot)

    async def _tick(self, on_second: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += 1
            await asyncio.sleep(due - loop.time())
            self.tally.end_second()
            on_second()
