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
import ssl
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import PurePath
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, overload

from gatelink.calls import invoke, words_of
from gatelink.cluster_client import ClusterClient, connect_cluster
from gatelink.config import Limits, WireOptions
from gatelink.errors import CloseCode, ConfigError, ConnectError, SessionClosed
from gatelink.handlers import Handlers
from gatelink.handling.fallback import Fallback
from gatelink.handling.routes import Route
from gatelink.net.client import connect
from gatelink.net.dialer import Backoff, TokenSource
from gatelink.robots.tally import Tally
from gatelink.session.interfaces import MessageSource
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.messages import Catalog, Request
from gatelink.wire.messages import catalog as default_catalog

if TYPE_CHECKING:
    from gatelink.login.client import LoginClient

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")

LOGIN_TIMEOUT = 10.0
"""Seconds in which a robot must have logged in at a cluster; as long as `connect` takes at most."""

_ASYNCIO = PurePath(asyncio.__file__).parent

KEPT_MESSAGES = 256
"""The most messages that are kept for a later `expect`. One more drops the oldest."""


class Options(TypedDict, total=False):
    """What `Robot.connect` takes: the arguments of `connect` and `connect_cluster`, by their names."""

    address: str | Sequence[str]
    login: "str | LoginClient | None"
    guest: str
    user: str
    password: str
    uid: int
    token: str | TokenSource
    source: int
    timeout: float
    reconnect: Backoff
    tls: ssl.SSLContext
    limits: Limits
    wire: WireOptions
    server_key: bytes
    slot: int
    resume: bool
    base_protocol: bool


class Robot:
    """One user of a load test. A scenario is a subclass with a `run`.

    number: counts from 0. uid: the user that logs in, number + 1 unless `run` sets another.
    random: seeded with the test's seed and `number`, so that a test can be repeated.
    session: the session of the last `connect`, even after the server closed it; else None.
    client: the client of a whole cluster, if the robot logged in at a login service; `session` is its newest one then.
    catalog: set in the class; the messages of the robot, by default those of `@message`.
    """

    catalog: Catalog = default_catalog

    def __init__(self, number: int, target: str | Options, tally: Tally, seed: int = 0) -> None:
        """target: the address, or the options of `connect` that the run has for all its robots.

        Raises CatalogError for a method `on_...` without a message of that name."""
        self.number = number
        self.uid = number + 1
        self.random = random.Random(f"{seed}/{number}")
        self.session: Session | None = None
        self.client: ClusterClient | None = None
        self._target: Options = {"address": target} if isinstance(target, str) else target
        self._seed = seed
        self._tally = tally
        self._kept: deque[Any] = deque(maxlen=KEPT_MESSAGES)
        self._answer: asyncio.Future[Any] | None = None  # while `expect` waits: its result
        self._wanted: Callable[[Any], bool]
        self._handlers = Handlers(self.catalog, RobotFallback(self))
        self._handlers.register(self)
        self._handlers.default(lambda session, message: None)
        self._handlers.around(self._handle_and_take)
        self._handlers.on_verified(self._opened)
        self._handlers.on_restarted(self._restarted)
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

    def device_id(self) -> str:
        """The secret of the guest that logs in at a login service. By default it depends on the seed and the number."""
        return sha256(f"robot {self._seed}/{self.number}".encode()).hexdigest()

    # -- called by scenarios --

    async def connect(self, **options: Unpack[Options]) -> Session:
        """Log in, measured as "connect". Raises ConnectError; RuntimeError if it has an open session.

        options: of `connect` (`uid`, `token`, `slot`, `server_key`, `tls`, `resume`, ...), in place of the run's and of
        the robot's own. With `login`, or if the run has one, of `connect_cluster`: the robot is a guest there, unless
        `user` and `password`, or `token`, are given, and comes back by itself; it may also raise LoginFailed.
        address: one, or several. A robot dials one of them, by its number, and the next ones if nothing listens there.
        """
        if self._is_connected:
            raise RuntimeError(f"robot {self.number} is connected already; disconnect first")
        self._kept.clear()
        wanted: dict[str, Any] = {"handlers": self._handlers, "catalog": self.catalog, **self._target, **options}
        try:
            with self.measure("connect"):
                if wanted.get("login") is not None:
                    return await self._connect_cluster(wanted)
                wanted.pop("login", None)
                return await self._connect(wanted)
        except BaseException as error:
            self.session = None  # `_opened` may have set it before a cancellation
            if isinstance(error, asyncio.CancelledError) and not self._tally.all_sessions:
                why = f": {words_of(error.__cause__)}" if error.__cause__ is not None else ""
                self.fail(f"no robot had a connection when the run ended, at {_place(self._target | options)}{why}")
            raise

    async def _connect(self, wanted: dict[str, Any]) -> Session:
        address = wanted.pop("address")
        addresses = [address] if isinstance(address, str) else list(address)
        first = self.number % len(addresses)
        wanted = {"uid": self.uid, "token": self.token(), **wanted}
        for left, endpoint in enumerate([*addresses[first:], *addresses[:first]], 1 - len(addresses)):
            try:
                return await connect(endpoint, **wanted)
            except ConnectError as error:
                if error.code is not None or not left:
                    raise
        raise ConfigError("address is an empty list; give one address or several")

    async def _connect_cluster(self, wanted: dict[str, Any]) -> Session:
        wanted.pop("address", None)
        if not wanted.keys() & {"guest", "user", "password", "token"}:
            wanted["guest"] = self.device_id()
        elif "token" in wanted:
            wanted.setdefault("uid", self.uid)
        wanted.setdefault("timeout", LOGIN_TIMEOUT)
        self.client = await connect_cluster(wanted.pop("login"), **wanted)
        self.uid = self.client.session.uid
        return self.client.session

    async def disconnect(self, *, abruptly: bool = False) -> None:
        """End the session and wait until its connection is closed. Does nothing without a session.

        Queued messages are delivered first. abruptly: drop them, and the connection, as a broken network does.
        """
        session, self.session = self.session, None
        client, self.client = self.client, None
        if session is not None:
            if abruptly:
                session.abort()
            elif client is None:
                session.close()
            if client is not None:
                await client.close()
            await session.wait_closed()

    def send(self, message: Any) -> None:
        """Queue `message`. Raises SessionClosed if the server closed the session."""
        (self.client or self._connected()).send(message)
        self._tally.sent += 1

    @overload
    async def request(self, message: Request[T], *, timeout: float = 5.0) -> T: ...  # noqa: ASYNC109

    @overload
    async def request(self, message: object, *, timeout: float = 5.0) -> Any: ...  # noqa: ASYNC109

    async def request(self, message: Any, *, timeout: float = 5.0) -> Any:  # noqa: ASYNC109 - as `expect`
        """Send a request and return its answer. Raises RequestFailed."""
        peer = self.client or self._connected()
        self._tally.sent += 1
        answer = await peer.request(message, timeout=timeout)
        self._tally.received += 1
        return answer

    @overload
    async def expect(
        self,
        kind: type[T],
        /,
        where: Callable[[T], bool] = ...,
        *,
        timeout: float = ...,  # noqa: ASYNC109
    ) -> T: ...

    @overload
    async def expect(
        self,
        kind: type[T],
        other: type[U],
        /,
        where: Callable[[T | U], bool] = ...,
        *,
        timeout: float = ...,  # noqa: ASYNC109
    ) -> T | U: ...

    @overload
    async def expect(
        self,
        kind: type[T],
        other: type[U],
        third: type[V],
        /,
        where: Callable[[T | U | V], bool] = ...,
        *,
        timeout: float = ...,  # noqa: ASYNC109
    ) -> T | U | V: ...

    async def expect(
        self,
        *wanted: Any,
        where: Callable[[Any], bool] | None = None,
        timeout: float = 5.0,  # noqa: ASYNC109 - a scenario has one timeout for each answer
    ) -> Any:
        """Wait for a message of one of the classes, for which `where` is true if it is given (behind the classes).

        Kept messages are looked at first. All other messages before it are dropped.

        Raises TimeoutError after `timeout` seconds, and SessionClosed if the session closes first.
        """
        self._connected()
        if self._answer is not None:
            raise RuntimeError(f"robot {self.number} expects something already; one at a time")
        kinds = tuple(each for each in wanted if isinstance(each, type))
        conditions = [*wanted[len(kinds) :], *([where] if where is not None else [])]
        if not kinds or len(conditions) > 1 or any(isinstance(each, type) for each in conditions):
            raise TypeError("expect takes one or more classes of messages, and then at most one condition")
        is_right: Callable[[Any], bool] = conditions[0] if conditions else lambda message: True
        self._wanted = lambda message: isinstance(message, kinds) and is_right(message)
        while self._kept:
            message = self._kept.popleft()
            if self._wanted(message):
                return message
        if (end := self._end()) is not None:
            raise end
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                return await self._answer
        except TimeoutError:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TimeoutError(f"no {names} as expected within {timeout:g} s") from None
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
        if (end := self._end()) is not None:
            self.fail(str(end))

    def _end(self) -> SessionClosed | None:
        """How the session ended; None if it is open, or if there is no session."""
        ended = self.client or self.session
        if ended is None or ended.close_code is None:
            return None
        return SessionClosed(ended.close_code, ended.close_reason)

    @property
    def _is_connected(self) -> bool:
        return self.session is not None and self._end() is None

    def _connected(self) -> Session:
        if self.session is None:
            raise RuntimeError(f"robot {self.number} is not connected; await self.connect() first")
        return self.session

    def _opened(self, session: Session) -> None:
        self.session = session
        self._tally.opened()

    def _restarted(self, session: Session) -> None:
        self.session = session
        self.count("sessions restarted")

    def _closed(self, session: Session) -> None:
        self._tally.closed()
        if session is self.session and self._answer is not None and not self._answer.done():
            self._answer.set_exception(SessionClosed(session.close_code or CloseCode.NORMAL, session.close_reason))

    def _handle_and_take(self, session: Session, message: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Have the message handled, then pass it on to `expect`."""
        result = call_next(session, message)
        if inspect.isawaitable(result):
            return self._take_after(result, session, message)
        self.take(session, message)
        return result

    async def _take_after(self, handled: Awaitable[Any], session: Session, message: Any) -> Any:
        result = await handled
        self.take(session, message)
        return result

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


def describe(error: BaseException) -> str:
    """The error as one line: its type, its text if it has one, and the last file and line before asyncio's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PurePath(frame.filename).parent != _ASYNCIO] or frames
    place = f" ({PurePath(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{words_of(error)}{place}"


def _place(options: Options) -> str:
    """Where robots connect, for people."""
    login, address = options.get("login"), options.get("address", "")
    if login is not None:
        return login if isinstance(login, str) else login.url
    return address if isinstance(address, str) else ", ".join(address)
