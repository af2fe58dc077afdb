"""The base class of scenarios: a robot.

    class Greeter(Robot):
        async def run(self) -> None:
            await self.connect()
            while True:
                with self.measure("hello"):
                    self.send(Hello())
                    answer = await self.expect(Welcome)
                if answer.uid != self.uid:
                    self.fail(f"welcomed as {answer.uid}, expected {self.uid}")
                await asyncio.sleep(self.random.uniform(0.5, 1.5))

A method named after a message, such as `on_line` for Line, is its handler, as with `Handlers.register`. Handlers are
called in the order of arrival. `expect` returns a message only after its handler was called.
"""

import asyncio
import inspect
import random
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from time import perf_counter
from typing import Any, TypeVar

from gatelink.calls import invoke
from gatelink.errors import CloseCode, SessionClosed
from gatelink.handlers import Fallback, Handlers, Route, check_handler
from gatelink.net.client import connect
from gatelink.robots.tally import Tally
from gatelink.session.interfaces import MessageSource
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

T = TypeVar("T")
_H = TypeVar("_H", bound=Callable[[Any, Any], Any])

KEPT_MESSAGES = 256
"""The most messages that are kept for a later `expect`. One more drops the oldest."""


class Robot:
    """One user of a load test. A scenario is a subclass with a `run`.

    number: counts from 0. uid: the user that logs in, number + 1 unless `run` sets another.
    random: seeded with the test's seed and `number`, so that a test can be repeated.
    session: the session of the last `connect`, even after the server closed it; else None.
    catalog: set in the class; the messages of the robot, by default those of `@message`.
    """

    catalog: Catalog = default_catalog

    def __init__(self, number: int, address: str, tally: Tally, seed: int = 0) -> None:
        """Raises CatalogError for a method `on_...` without a message of that name."""
        self.number = number
        self.uid = number + 1
        self.random = random.Random(f"{seed}/{number}")
        self.session: Session | None = None
        self._address = address
        self._tally = tally
        self._kept: deque[Any] = deque(maxlen=KEPT_MESSAGES)
        self._answer: asyncio.Future[Any] | None = None  # while `expect` waits: its result
        self._wanted: Callable[[Any], bool]
        self._handlers = RobotHandlers(self)
        self._handlers.register(self)
        self._handlers.default(self.take)
        self._handlers.on_verified(self._opened)
        self._handlers.on_closed(self._closed)

    # -- overridden by scenarios --

    async def run(self) -> None:
        """The scenario. It may return early; at the end of the test it is cancelled. Then the session is closed.

        An exception is counted as an error; after a second `run` is called again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def token(self) -> str:
        """The token to log in with. By default the uid as 32 digits, for `StaticTokens`."""
        return f"{self.uid:032d}"

    # -- called by scenarios --

    async def connect(self) -> Session:
        """Log in, measured as "connect". Raises ConnectError; RuntimeError if it has an open session."""
        if self.session is not None and self.session.close_code is None:
            raise RuntimeError(f"robot {self.number} is connected already; disconnect first")
        self._kept.clear()
        try:
            with self.measure("connect"):
                return await connect(
                    self._address, uid=self.uid, token=self.token(), handlers=self._handlers, catalog=self.catalog
                )
        except BaseException:
            self.session = None  # `_opened` may have set it before a cancellation
            raise

    async def disconnect(self, *, abruptly: bool = False) -> None:
        """End the session and wait until its connection is closed. Does nothing without a session.

        Queued messages are delivered first. abruptly: drop them, and the connection, as a broken network does.
        """
        session, self.session = self.session, None
        if session is not None:
            if abruptly:
                session.abort()
            else:
                session.close()
            await session.wait_closed()

    def send(self, message: Any) -> None:
        """Queue `message`. Raises SessionClosed if the server closed the session."""
        self._connected().send(message)
        self._tally.sent += 1

    async def expect(
        self,
        kind: type[T],
        where: Callable[[T], bool] = lambda message: True,
        timeout: float = 5.0,  # noqa: ASYNC109 - a scenario has one timeout for each answer
    ) -> T:
        """Wait for a message of class `kind` for which `where` is true. Kept messages are looked at first.

        All other messages before it are dropped.

        Raises TimeoutError after `timeout` seconds, and SessionClosed if the session closes first.
        """
        session = self._connected()
        if self._answer is not None:
            raise RuntimeError(f"robot {self.number} expects something already; one at a time")
        self._wanted = lambda message: isinstance(message, kind) and where(message)
        while self._kept:
            message: T = self._kept.popleft()
            if self._wanted(message):
                return message
        if session.close_code is not None:
            raise SessionClosed(session.close_code, session.close_reason)
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                message = await self._answer
                return message
        except TimeoutError:
            raise TimeoutError(f"no {kind.__name__} as expected within {timeout:g} s") from None
        finally:
            self._answer = None

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Record how long the block takes, unless it raises."""
        start = perf_counter()
        yield
        self.record(name, perf_counter() - start)

    def record(self, name: str, seconds: float) -> None:
        """Record a latency under `name`. The results show the percentiles for each name."""
        self._tally.record(name, seconds)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter of the whole run, shown under `name`."""
        self._tally.counts[name] += number

    def fail(self, text: str) -> None:
        """Count an error. text: what was seen, what was expected. The results group errors with the same text."""
        self._tally.fail(self.number, text)

    # -- called by the load test and the handlers --

    async def live(self) -> None:
        """Run until cancelled or done. Errors of `run` are counted, not raised."""
        while True:
            try:
                await invoke(self.run)
                self._check_end()
                return
            except asyncio.CancelledError:
                self._check_end()
                raise
            except Exception as error:
                self.fail(describe(error))
            finally:
                await self.disconnect()
            await asyncio.sleep(1)

    def _check_end(self) -> None:
        """Count an error if the server closed the session and the scenario did not notice."""
        if self.session is not None and self.session.close_code is not None:
            self.fail(str(SessionClosed(self.session.close_code, self.session.close_reason)))

    def _connected(self) -> Session:
        if self.session is None:
            raise RuntimeError(f"robot {self.number} is not connected; await self.connect() first")
        return self.session

    def _opened(self, session: Session) -> None:
        self.session = session
        self._tally.opened()

    def _closed(self, session: Session) -> None:
        self._tally.closed()
        if session is self.session and self._answer is not None and not self._answer.done():
            self._answer.set_exception(SessionClosed(session.close_code or CloseCode.NORMAL, session.close_reason))

    def take(self, session: Session, message: Any) -> None:
        """Count `message`. A waiting `expect` gets it or drops it; without one it is kept for a later `expect`."""
        self._tally.received += 1
        if self._answer is None or self._answer.done():
            self._kept.append(message)
        elif self._wanted(message):
            self._answer.set_result(message)


class RobotFallback(Fallback):
    """Counts the exceptions of a robot's handlers as errors."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot

    def failed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """Count it as an error of the robot."""
        if not isinstance(error, SessionClosed) or session.state is SessionState.OPEN:
            self._robot.fail(f"handler of {route.name}: {describe(error)}")


class RobotHandlers(Handlers):
    """A robot's handlers. A message goes to `expect` after it was handled."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(robot.catalog, RobotFallback(robot))
        self._robot = robot

    def on(self, what: type | int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]:
        """As `Handlers.on`. The first handler of a message also passes it on to `expect`."""
        register: Callable[[Callable[..., Any]], Any] = super().on(what, rate=rate, also=also)

        def and_take(handler: _H) -> _H:
            check_handler(handler, str(getattr(what, "__name__", what)), "session", "message")
            if self.catalog.find(what).id in self.routes:  # the first handler passes it on already
                register(handler)
                return handler

            def handled(session: Session, message: Any) -> object:
                result = handler(session, message)
                if inspect.isawaitable(result):
                    return then_take(result, session, message)
                self._robot.take(session, message)
                return result

            async def then_take(result: Awaitable[Any], session: Session, message: Any) -> None:
                await result
                self._robot.take(session, message)

            register(handled)
            return handler

        return and_take


def describe(error: BaseException) -> str:
    """The error as one line, with the file and line where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
