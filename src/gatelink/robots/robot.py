"""What a scenario is made of: a robot, and what it can do.

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

Methods named as a message, `on_line` for Line, are its handlers, as with `Handlers.register`: they are called in the
order of arrival, before `expect` gives the same message.
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
"""Messages kept for a later `expect`: the newest."""


class Robot:
    """One user of a load test; a scenario is a subclass with a `run`.

    number: 0 and up. uid: who it logs in as, number + 1 unless `run` sets another. random: seeded by run and number,
    so that a run can be repeated. session: the open one, or one that the server ended, or None.
    catalog (of the class): its messages; the default is what `@message` registers in.
    """

    catalog: Catalog = default_catalog

    def __init__(self, number: int, address: str, tally: Tally, seed: int = 0) -> None:
        """Raises CatalogError for a method `on_...` that names no message."""
        self.number = number
        self.uid = number + 1
        self.random = random.Random(f"{seed}/{number}")
        self.session: Session | None = None
        self._address = address
        self._tally = tally
        self._kept: deque[Any] = deque(maxlen=KEPT_MESSAGES)
        self._answer: asyncio.Future[Any] | None = None  # for `expect`, while it waits
        self._wanted: Callable[[Any], bool]
        self._handlers = RobotHandlers(self)
        self._handlers.register(self)
        self._handlers.default(self.take)
        self._handlers.on_verified(self._opened)
        self._handlers.on_closed(self._closed)

    # -- what a scenario writes --

    async def run(self) -> None:
        """The robot's life. Cancelled, and the session closed, when the time is over; returning earlier is as good.

        What it raises is counted as an error, and a second later the robot starts over.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def token(self) -> str:
        """What this robot shows to log in; by default its uid with 32 digits, as `StaticTokens` takes it."""
        return f"{self.uid:032d}"

    # -- what a scenario calls --

    async def connect(self) -> Session:
        """Logs in, measured as "connect". Raises ConnectError; RuntimeError if the session before is still open."""
        if self.session is not None and self.session.close_code is None:
            raise RuntimeError(f"robot {self.number} is connected already; disconnect first")
        self._kept.clear()
        try:
            with self.measure("connect"):
                return await connect(
                    self._address, uid=self.uid, token=self.token(), handlers=self._handlers, catalog=self.catalog
                )
        except BaseException:
            self.session = None  # it may have been verified when the time was over
            raise

    async def disconnect(self, *, abruptly: bool = False) -> None:
        """Ends the session and waits until its connection is gone; nothing if there is none.

        By default what is queued is still delivered; `abruptly` drops it, with the connection, as a break does.
        """
        session, self.session = self.session, None
        if session is not None:
            if abruptly:
                session.abort()
            else:
                session.close()
            await session.wait_closed()

    def send(self, message: Any) -> None:
        """Queues `message`. Raises SessionClosed if the server ended the session."""
        self._connected().send(message)
        self._tally.sent += 1

    async def expect(
        self,
        kind: type[T],
        where: Callable[[T], bool] = lambda message: True,
        timeout: float = 5.0,  # noqa: ASYNC109 - how long is what a scenario says of each answer
    ) -> T:
        """The next message of class `kind` for which `where` is true, come already or to come; skips those before it.

        Raises TimeoutError after `timeout` seconds, and SessionClosed when the session ends first.
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
        """Records how long the block takes, unless it raises."""
        start = perf_counter()
        yield
        self.record(name, perf_counter() - start)

    def record(self, name: str, seconds: float) -> None:
        """Counts a latency; the run shows the percentiles of each name."""
        self._tally.record(name, seconds)

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a counter of the whole run, shown under `name`."""
        self._tally.counts[name] += number

    def fail(self, text: str) -> None:
        """Counts an error: say what was seen and what was expected. Errors of the same text are shown as one."""
        self._tally.fail(self.number, text)

    # -- from the runner and the handlers --

    async def live(self) -> None:
        """Runs until cancelled or done. Never raises what `run` does."""
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
        """A session that the server ended, and that the scenario did not hear of, is an error."""
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
        """Counts `message`, and gives it to the `expect` that waits for it, or keeps it for a later one."""
        self._tally.received += 1
        if self._answer is None or self._answer.done():
            self._kept.append(message)
        elif self._wanted(message):
            self._answer.set_result(message)


class RobotFallback(Fallback):
    """A handler of a robot that raises has found an error."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot

    def failed(self, session: MessageSource, route: Route, error: Exception) -> None:
        """Counts it as an error of the robot."""
        if not isinstance(error, SessionClosed) or session.state is SessionState.OPEN:
            self._robot.fail(f"handler of {route.name}: {describe(error)}")


class RobotHandlers(Handlers):
    """A robot's table: what its handlers have taken is for `expect`, too."""

    def __init__(self, robot: Robot) -> None:
        super().__init__(robot.catalog, RobotFallback(robot))
        self._robot = robot

    def on(self, what: type | int | str, *, rate: float | None = None, also: bool = False) -> Callable[[_H], _H]:
        """As `Handlers.on`; what was handled is then for `expect`, too."""
        register: Callable[[Callable[..., Any]], Any] = super().on(what, rate=rate, also=also)

        def and_take(handler: _H) -> _H:
            check_handler(handler, str(getattr(what, "__name__", what)), "session", "message")
            if self.catalog.find(what).id in self.routes:  # the first handler gives it to `expect`
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
    """An error in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
