"""One run: so many robots of one scenario against one address, for so long, in this process and loop."""

import asyncio
from collections.abc import Callable

from gatelink.robots.robot import Robot
from gatelink.robots.tally import Tally

ENDING = 10
"""Seconds that robots may take to end when the time is over: twice what a session takes to close at most."""


class LoadTest:
    """A run, made to be awaited once.

    address: as `connect` takes it. count: robots. seconds: how long, the ramp included. ramp: seconds over which the
    robots start, one after the other. seed: robots of the same seed and number draw the same random numbers.
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
        """Runs until the time is over or all robots are done, then closes their sessions; what was counted.

        on_second: called after each second. A robot that has not ended ENDING seconds after the time is an error.
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
        """Ends the run now, as if its time were over."""
        self._lives.cancel()

    async def _live(self) -> None:
        """Every robot's life; being cancelled, it waits until all have disconnected."""
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
