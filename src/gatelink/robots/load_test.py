"""One load test: robots of one scenario against one address, in this process and event loop."""

import asyncio
from collections.abc import Callable
from typing import Unpack

from gatelink.errors import ConfigError
from gatelink.robots.robot import Options, Robot
from gatelink.robots.tally import Tally

ENDING = 10
"""Seconds that robots may take to end: twice the longest time that a session takes to close."""


class LoadTest:
    """One load test, for one call of `run`.

    count: robots. seconds: its length, with the ramp. ramp: seconds over which the robots start, one after the other.
    seed: robots with the same seed and number draw the same random numbers.
    options: of `Robot.connect`, for all robots: address, one or several; or login, where each robot is a guest; and
    others.
    """

    def __init__(
        self,
        scenario: type[Robot],
        *,
        count: int,
        seconds: float,
        ramp: float = 0.0,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        """Raises CatalogError for a handler of the scenario that names no message.

        Raises ConfigError unless there is either an address or a login.
        """
        if bool(options.get("address")) == bool(options.get("login")):
            raise ConfigError("give robots either address= or login=")
        self._target = options
        self.seconds = seconds
        self.ramp = ramp
        self.tally = Tally()
        self.robots = [scenario(number, self._target, self.tally, seed) for number in range(count)]
        self.ended = ""
        """Why the run was over before its time, for people; "" if it was not."""
        self._is_stopped = False
        self._alive: set[Robot] = set()
        self._lives: asyncio.Task[None]
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def run(self, on_second: Callable[[], None] = lambda: None) -> Tally:
        """Run until the time is over or all robots are done, then close their sessions. Returns the tally.

        on_second: called after each second. A robot that has not ended ENDING seconds later counts as an error.
        """
        login = self._target.get("login")
        if not isinstance(login, str):
            return await self._run(on_second)
        from gatelink.login.client import LoginClient

        async with LoginClient(login) as shared:  # one for all robots, with its connections
            self._target["login"] = shared
            return await self._run(on_second)

    async def _run(self, on_second: Callable[[], None]) -> Tally:
        self.tally.start()
        self._lives = asyncio.create_task(self._live())
        ticker = asyncio.create_task(self._tick(on_second))
        self._tasks = self._lives, ticker
        if self._is_stopped:
            self.stop()
        try:
            await asyncio.wait([self._lives, ticker], timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            self._note_end()
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
        self.tally.end()
        return self.tally

    def stop(self) -> None:
        """End the run now, as if its time were over."""
        self._is_stopped = True
        for task in self._tasks:  # the ticker, too: a robot that ignores its cancellation must not hold up the end
            task.cancel()

    def _note_end(self) -> None:
        elapsed = self.tally.elapsed
        if elapsed < self.seconds and (self._is_stopped or self._lives.done()):
            why = "it was stopped" if self._is_stopped else "all robots were done"
            self.ended = f"The run ended after {elapsed:.1f} of {self.seconds:g} s: {why}."

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
