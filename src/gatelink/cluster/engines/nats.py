"""The engine of servers that live in many processes: NATS 2.11 or newer, with JetStream."""

import asyncio
import contextlib
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Self, TypeVar

from gatelink import tasks
from gatelink.cluster.engine import (
    MAX_SKEW,
    ClockSkew,
    EngineError,
    EngineStats,
    EngineUnavailable,
    Entry,
    NoResponder,
    Revision,
    Subscription,
    check_name,
    check_timeout,
    check_value,
    check_write,
)
from gatelink.cluster.engines.bucket import BucketUnfit, KeyValueBucket, Message
from gatelink.cluster.engines.follower import Follower
from gatelink.cluster.engines.nats_client import NatsConnection, Receive, Stop, place_of
from gatelink.cluster.engines.servers import QUESTION, SERVER, Servers
from gatelink.cluster.engines.view import View
from gatelink.cluster.engines.workers import RequestWorkers, late_answer, request_failed
from gatelink.errors import ConfigError, GatelinkError
from gatelink.logger import Logger, RateLimitedLogger

log = Logger("gatelink.engine")

MAX_CALLS = 10_000  # under way at a time; more are refused
MAX_SUBJECTS = 1_000  # of requests, whose servers are remembered
ALIVE_INTERVAL, ALIVE_TIMEOUT = 2.0, 5.0  # s between two questions whether the connection lives, and for the answer
SILENT = 2.0  # s without an answer after which the engine counts as unavailable
LOOK_TIMEOUT = 2.0  # s for a look at the bucket, where there is another server of NATS to go to
UNUSABLE_INTERVAL = 0.5  # s between two looks at a bucket that cannot be used
OVERLAP = 0.2  # s for the servers of NATS to tell each other of new subscriptions before the old ones end
SEARCH_PAUSE = 1.0  # s, give or take half, between two searches for a server whose bucket takes writes
HOME_INTERVAL = 60.0  # s, give or take half, after which the server that was chosen first is tried again
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # s before connecting again, doubled each time
STEADY = 10.0  # s; a connection that is lost sooner counts as one more that could not be made
LOOK_PAUSE = 0.1  # s between two looks at the bucket, at least
RELIST_AFTER = ALIVE_INTERVAL + 1.0  # s after which watches list again what is in a bucket that lost its contents
ATTEMPT_FACTOR, START_FACTOR = 2, 5  # deadlines that one attempt to connect may take, and a start in all
ASK_INTERVAL = 0.5  # s after which a server that is silent about the bucket is asked again

_T = TypeVar("_T")
_Step = Callable[[NatsConnection], Awaitable[None]]

HERE = "@"
"""Stands for the connection in the subject of a `_Listener`."""

_FAILURE, _TIMEOUT = "Gatelink-Failure", "Gatelink-Timeout"


class _Listener:
    """A subscription of the application, made again on each connection."""

    def __init__(self, listeners: "set[_Listener]", subject: str, receive: Receive, queue: str) -> None:
        """queue: of several subscriptions with it, one gets each message. "": each gets all."""
        self.is_closed = False
        self._listeners = listeners
        self._subject = subject
        self._receive = receive
        self._queue = queue
        self._connection: NatsConnection | None = None
        self._stop: Stop | None = None
        self._before: Stop | None = None  # on the connection before, while it may still be good
        self._group = ""
        listeners.add(self)

    async def open(self, connection: NatsConnection, is_move: bool = False) -> None:
        """Subscribe on a new connection.

        is_move: the one before still works. Until `leave`, each message comes on one of the two.
        """
        if self._connection is not connection:
            if not is_move:
                self._group = secrets.token_hex(4)  # of this listener alone
            self._before = self._stop
            subject = _on(connection, self._subject)
            take = partial(self._take, self._group)
            self._stop = await connection.listen(subject, take, self._queue or self._group)
            self._connection = connection

    async def leave(self) -> None:
        """End the subscription on the connection before, once its messages are handled."""
        before, self._before = self._before, None
        if before is not None:
            await before()

    async def close(self) -> None:
        self._listeners.discard(self)
        if self._stop is not None and not self.is_closed:
            await self._stop()
        self.is_closed = True

    async def _take(self, group: str, message: Message) -> None:
        is_twice = not self._queue and group != self._group  # of a connection given up: the new one has it
        if not self.is_closed and not is_twice:
            await self._receive(message)


class _Serving:
    """One server of a subject: its subscriptions end in the order in which no request is lost."""

    def __init__(self, listeners: contextlib.AsyncExitStack) -> None:
        self._listeners = listeners

    async def close(self) -> None:
        await self._listeners.aclose()


class NatsEngine:
    """An `Engine` on NATS.

    urls: `nats://user:password@host:port` or `tls://...`, user and password with a URL's escapes; name all servers of a
    cluster. credentials: a file of the kind that `nsc` makes, instead of a password. name: shown in NATS' monitoring.
    timeout: the deadline of each call in seconds. patience: the deadline of calls for keys, if their callers can wait
    longer, as for NATS to elect a leader; None: `timeout`. replicas: of the bucket, if it has to be made. bucket: the
    cluster's; its events and requests have subjects that begin with it. max_skew: seconds that this machine's clock may
    be off the engine's; over it, `start` raises ClockSkew.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        credentials: Path | None = None,
        name: str = "gatelink",
        timeout: float = 2.0,
        patience: float | None = None,
        replicas: int = 1,
        bucket: str = "gatelink",
        max_skew: float = MAX_SKEW,
    ) -> None:
        check_name(bucket)
        if "." in bucket:
            raise ConfigError(f"the bucket {bucket!r} has a dot; a bucket's name is one word")
        if credentials is not None and not Path(credentials).is_file():
            raise ConfigError(f"the credentials of NATS, {credentials}, are not a file")
        self.urls = (urls,) if isinstance(urls, str) else tuple(urls)
        if not all(url.startswith(("nats://", "tls://")) for url in self.urls):  # not shown: it may hold a password
            raise ConfigError("a URL of NATS begins with nats:// or tls://, and one that was given does not")
        self.stats = EngineStats()
        self._credentials = credentials
        self._name = name
        self._timeout = timeout
        self._patience = patience or timeout
        self._cluster = bucket
        self._bucket = KeyValueBucket(bucket, replicas)
        self._max_skew = max_skew
        self._is_skewed = False  # as the log says
        self._log = RateLimitedLogger(log)
        self._workers = RequestWorkers(self.stats, self._log)
        self._connection: NatsConnection | None = None
        self._unclosed: set[NatsConnection] = set()  # that one, and those of attempts and moves
        self._up = asyncio.Event()
        self._is_closed = True
        self._cause = ""  # why the last connect failed, or the bucket cannot be used
        self._is_usable = False  # the bucket, when it was last looked at
        self._refusals: set[str] = set()  # of the other servers, that were logged since the bucket could be used
        self._lost_at = ""  # the place of the server whose connection was lost last
        self._home = random.choice(self.urls) if self.urls else ""
        self._look = asyncio.Event()  # something is wrong with the bucket
        self._relisting: asyncio.TimerHandle | None = None
        self.when_back: set[Callable[[], None]] = set()
        self._calls = 0
        self._servers: dict[str, Servers] = {}  # of this connection, by the subject of requests
        self._keeper: asyncio.Task[None] | None = None
        self._listeners: set[_Listener] = set()
        self._followers: set[Follower] = set()

    async def start(self) -> None:
        if not self._is_closed:
            raise ConfigError("the engine is started already; start and close it where it is made")
        self._is_closed = False
        self._up.clear()
        try:
            async with self._call("start", START_FACTOR * self._timeout):
                connection = await self._connect()
        except BaseException:
            self._is_closed = True
            await self._close_connections()
            raise
        self._adopt(connection)
        try:
            self._check_skew()
            await self._look_at_bucket(connection)
        except BaseException:
            await self.close()
            raise
        self._keeper = tasks.live(partial(self._keep, connection), "engine connection")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._relisting is not None:
            self._relisting.cancel()
            self._relisting = None
        for listener in self._listeners:
            listener.is_closed = True
        self._listeners.clear()
        for follower in self._followers:
            follower.end()
        try:
            await tasks.cancel_and_wait(self._keeper)
            await self._workers.close()
            if (connection := self._connection) is not None:
                with contextlib.suppress(EngineUnavailable, TimeoutError):  # what was published goes out first
                    async with asyncio.timeout(self._timeout):
                        await connection.round_trip()
        finally:
            self._connection = None
            self._up.set()  # calls that wait for a connection fail now
            await self._close_connections()

    async def _close_connections(self, but: NatsConnection | None = None) -> None:
        await tasks.gather_all(*(each.close() for each in self._unclosed if each is not but))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def is_available(self) -> bool:
        return self._connection is not None and self._is_usable

    @property
    def trouble(self) -> str:
        if self.is_available:
            return ""
        return self._cause or ("it is not started, or closed" if self._is_closed else "it was not looked at yet")

    def now(self) -> float:
        return self._bucket.clock.now()

    @property
    def skew(self) -> float:
        return self._bucket.clock.skew

    async def get(self, key: str) -> Entry | None:
        check_name(key)
        return await self._keys("get", lambda: self._bucket.get(self._ask, key))

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        seconds = check_write(key, value, ttl)
        return await self._keys("put", lambda: self._bucket.put(self._ask, key, value, seconds))

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        seconds = check_write(key, value, ttl)
        return await self._keys("create", lambda: self._bucket.create(self._ask, key, value, seconds))

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        seconds = check_write(key, value, ttl)
        return await self._keys("update", lambda: self._bucket.update(self._ask, key, value, seconds, revision))

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        check_name(key)
        await self._keys("delete", lambda: self._bucket.delete(self._ask, key, revision))

    @contextlib.asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[View]:
        check_name(prefix)
        follower = Follower(self._bucket, prefix, self.stats, self._log)
        self._followers.add(follower)
        task = asyncio.create_task(follower.run(self._connected))
        try:
            async with self._call("watch"):
                await self._connected()
                await follower.is_complete.wait()
                await self._connected()  # or else it was closed meanwhile
            yield follower.view
        finally:
            self._followers.discard(follower)
            await tasks.cancel_and_wait(task)

    async def publish(self, subject: str, data: bytes) -> None:
        check_name(subject)
        check_value(data)
        async with self._call("publish"):
            await (await self._connected()).send(f"{self._cluster}.event.{subject}", data)
        await asyncio.sleep(0)  # a caller that publishes in a loop lets the socket send

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Subscription:
        check_name(subject)

        async def receive(message: Message) -> None:
            try:
                handler(message.data)
            except Exception as error:
                self.stats.handler_errors += 1
                self._log.error("an event's handler failed", subject=subject, exc_info=error)

        async with self._call("subscribe"):
            return await self._listen(f"{self._cluster}.event.{subject}", receive)

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        check_name(subject)

        async def receive(message: Message) -> None:
            timeout = float(message.headers.get(_TIMEOUT, self._timeout))
            await self._workers.take(subject, handler, message.data, timeout, partial(self._answer, message.reply))

        shared = f"{self._cluster}.request.{subject}"
        # Another one on each connection: in a move, requests that are on their way to the old one still arrive.
        target = f"{shared}.={secrets.token_hex(8)}-{HERE}"

        async def say(message: Message) -> None:
            if (connection := self._connection) is not None:
                with contextlib.suppress(EngineUnavailable):
                    await connection.send(message.reply, b"", {SERVER: _on(connection, target)})

        async with self._call("serve"), contextlib.AsyncExitStack() as stack:
            for name, take, queue in (
                (target, receive, "serve"),
                (shared, receive, "serve"),  # asked by older versions
                (f"{shared}.{QUESTION}", say, ""),  # the last one is the first to close
            ):
                stack.push_async_callback((await self._listen(name, take, queue)).close)
            return _Serving(stack.pop_all())

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - as the interface
        check_name(subject)
        check_value(data)
        check_timeout(timeout)
        async with self._call("request", timeout, late_answer):
            message = await self._request(subject, data, {_TIMEOUT: f"{timeout:g}"})
            if failure := message.headers.get(_FAILURE):
                raise request_failed(subject, failure, message.data)
            return message.data

    async def _request(self, subject: str, data: bytes, headers: Mapping[str, str]) -> Message:
        """Ask one server of the subject that lives. Raises NoResponder, EngineUnavailable."""
        while True:
            connection = await self._connected()
            try:
                server = await self._servers_of(connection, subject).choose()
            except NoResponder:  # or only servers of older versions, which do not say that they live
                return await connection.ask(f"{self._cluster}.request.{subject}", data, headers)
            try:
                return await connection.ask(server, data, headers)
            except NoResponder:
                pass  # it has just ended

    def _servers_of(self, connection: NatsConnection, subject: str) -> Servers:
        servers = self._servers.get(subject)
        if servers is None:
            if len(self._servers) >= MAX_SUBJECTS:
                for name, others in list(self._servers.items()):
                    if others.is_idle:
                        others.close()
                        del self._servers[name]
            servers = self._servers[subject] = Servers(connection, f"{self._cluster}.request.{subject}.{QUESTION}")
        return servers

    # -- calls --

    @contextlib.asynccontextmanager
    async def _call(
        self,
        name: str,
        timeout: float | None = None,  # noqa: ASYNC109 - sets it
        late: Callable[[str], GatelinkError] = EngineUnavailable,
    ) -> AsyncIterator[None]:
        """Count a call and bound it. Raises `late` after the deadline, EngineUnavailable without a connection."""
        timeout = timeout or self._timeout
        with self.stats.timing(name):
            if self._calls >= MAX_CALLS:
                raise EngineUnavailable(f"{name}: {MAX_CALLS} calls are waiting for the engine")
            self._calls += 1
            try:
                async with asyncio.timeout(timeout):
                    yield
            except TimeoutError:
                if self._connection is None:
                    raise EngineUnavailable(f"{name}: not connected: {self._cause}") from None
                if late is EngineUnavailable:
                    self._look.set()
                why = f"no answer within {timeout:g} s" + (f": {self._cause}" if self._cause else "")
                raise late(f"{name}: {why}") from None
            finally:
                self._calls -= 1

    async def _keys(self, name: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Call the bucket; repeat the call while the bucket is unfit, since nothing was done."""
        async with self._call(name, self._patience):
            while True:
                try:
                    return await work()
                except BucketUnfit:
                    self._look.set()
                await asyncio.sleep(random.uniform(0.05, 0.15))

    async def _connected(self) -> NatsConnection:
        """The connection, as soon as there is one. Raises EngineUnavailable if the engine is closed."""
        while True:
            if self._is_closed:
                raise EngineUnavailable("the engine is not started, or closed")
            if self._connection is not None:
                return self._connection
            await self._up.wait()

    async def _ask(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Message:
        """Ask JetStream; repeat while it has no leader, since nothing was done."""
        while True:
            connection = await self._connected()
            try:
                return await connection.ask(subject, data, headers)
            except NoResponder:
                self._look.set()  # or somebody removed the bucket
                await asyncio.sleep(random.uniform(0.05, 0.15))

    async def _listen(self, subject: str, receive: Receive, queue: str = "") -> _Listener:
        listener = _Listener(self._listeners, subject, receive, queue)
        try:
            connection = await self._connected()
            await listener.open(connection)
            await connection.round_trip()
        except BaseException:
            await listener.close()
            raise
        return listener

    async def _answer(self, reply: str, data: bytes, failure: str) -> None:
        if (connection := self._connection) is not None:
            with contextlib.suppress(EngineUnavailable):  # the caller has a deadline
                await connection.send(reply, data, {_FAILURE: failure} if failure else None)

    # -- the connection --

    async def _connect(self) -> NatsConnection:
        """Try the servers until one does, the one that was lost last of all. Raises ConfigError.

        One that was cut off from its cluster may connect, but takes no writes. It does only if all others fail, too.
        """
        pause = FIRST_PAUSE
        while True:
            urls = sorted(random.sample(self.urls, len(self.urls)), key=lambda url: place_of(url) == self._lost_at)
            steps: list[_Step] = [self._join] if len(urls) == 1 else [self._join_writable, self._join]
            for then, url in itertools.product(steps, urls):
                try:
                    return await self._attempt(url, then)
                except EngineError as error:
                    self._cause = str(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, url: str, then: _Step) -> NatsConnection:
        """`_open` in a task of its own: nats-py connects by `wait_for`, which before Python 3.12 may swallow a
        cancellation, and so the caller's deadline.
        """
        opening = asyncio.create_task(self._open(url, then))
        try:
            await asyncio.wait({opening}, timeout=ATTEMPT_FACTOR * self._timeout)
        except asyncio.CancelledError:
            await _discard(opening)
            raise
        if not opening.done():
            await _discard(opening)
            raise EngineUnavailable(f"NATS at {place_of(url)} did not answer")
        return opening.result()

    async def _open(self, url: str, then: _Step) -> NatsConnection:
        connection = NatsConnection(url, self.stats, self._log, self._unclosed)
        try:
            await connection.open(self._name, self._credentials, self._timeout)
            try:
                await self._bucket.prepare(partial(_ask_again, connection))
            except NoResponder:
                if connection.has_jetstream:
                    raise
                raise ConfigError(f"NATS at {connection.where} runs without JetStream; add `jetstream {{}}`") from None
            await then(connection)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _join(self, connection: NatsConnection, is_move: bool = False) -> None:
        """Make the subscriptions of the application on a new connection. is_move: the one before still works."""
        for listener in list(self._listeners):
            await listener.open(connection, is_move)
        await connection.round_trip()

    async def _write(self, connection: NatsConnection) -> None:
        """Write a key. Raises EngineError if the bucket does not take it there."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await self._bucket.probe(partial(_ask_again, connection))
        except TimeoutError:
            raise EngineUnavailable(f"NATS at {connection.where}: the bucket takes no write") from None

    async def _join_writable(self, connection: NatsConnection) -> None:
        await self._write(connection)
        await self._join(connection)

    async def _find_better(self, urls: Sequence[str]) -> NatsConnection | None:
        """A connection to the first of these servers whose bucket takes a write; None if no server's does."""
        for url in urls:
            try:
                return await self._attempt(url, self._write)
            except (EngineError, ConfigError) as error:
                if (cause := f"{place_of(url)}: {error}") not in self._refusals:
                    self._refusals.add(cause)
                    log.info("another server of NATS cannot be used either", server=place_of(url), cause=str(error))
        return None

    async def _move(self, before: NatsConnection, connection: NatsConnection) -> None:
        """Go on with `connection`. The calls under way may end on `before` if that works."""
        was_usable = self._is_usable
        async with asyncio.timeout(ATTEMPT_FACTOR * self._timeout):
            await self._join(connection, was_usable)
        before.when_lost.discard(self._down)
        self._adopt(connection)
        log.info("moved to another server of NATS", server=connection.where, before=before.where)
        if was_usable:
            await asyncio.sleep(OVERLAP)
            await asyncio.gather(*(listener.leave() for listener in list(self._listeners)))
            await before.settle(self._timeout)
        else:
            self.stats.losses += 1
        await before.close()
        await self._look_at_bucket(connection)

    def _adopt(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._servers = {}
        connection.when_lost.add(self._down)
        self._up.set()

    def _check_skew(self) -> None:
        """Raises ClockSkew if this machine's clock is too far off for a start."""
        skew = self.skew
        if abs(skew) > self._max_skew:
            raise ClockSkew(
                f"this machine's clock is {_off(skew)} the engine's, over {self._max_skew:g} s (engine.max_skew); "
                "set both machines' clocks, best by NTP (chrony, systemd-timesyncd)"
            )

    def _watch_skew(self) -> None:
        """Log when this machine's clock goes off the engine's, and when it is right again."""
        skew = self.skew
        is_skewed = abs(skew) > MAX_SKEW
        if is_skewed and not self._is_skewed:
            fix = "set both machines' clocks, best by NTP; what expires is decided by the engine's clock meanwhile"
            log.error("this machine's clock is off", clock=f"{_off(skew)} the engine's", fix=fix)
        elif self._is_skewed and not is_skewed:
            log.info("this machine's clock is right again", seconds=round(skew, 3))
        self._is_skewed = is_skewed

    def _down(self) -> None:
        if not self._is_closed:
            self._connection = None
            self._is_usable = False
            self._up.clear()

    async def _keep(self, connection: NatsConnection) -> None:
        """Reconnect whenever the connection is lost, until it is cancelled."""
        pause = FIRST_PAUSE
        connection = self._connection or connection  # a newer one, if this begins again after an error
        await self._close_connections(but=connection)  # one that the error left
        while True:
            opened_at = monotonic()
            better = await self._watch_over(connection)
            if better is not None:
                try:
                    await self._move(connection, better)
                except (EngineError, TimeoutError) as error:
                    await better.close()
                    connection.lose(f"the move to {better.where} failed: {error}")
                else:
                    connection = better
                    continue
            lost_at = monotonic()
            self._lost_at = connection.where
            self.stats.losses += 1
            self._cause = connection.lost
            log.error("the engine is away", server=connection.where, cause=connection.lost)
            await connection.close()
            pause = FIRST_PAUSE if lost_at - opened_at > STEADY else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            connection = await self._reconnect()
            self._adopt(connection)
            log.info("the engine is back", server=connection.where, seconds=round(monotonic() - lost_at, 3))
            await self._look_at_bucket(connection)

    async def _reconnect(self) -> NatsConnection:
        while True:
            try:
                return await self._connect()
            except Exception as error:
                self._cause = str(error)
                self._log.error("the engine cannot be used", cause=self._cause)
                await asyncio.sleep(LONGEST_PAUSE)

    async def _watch_over(self, connection: NatsConnection) -> NatsConnection | None:
        """Return None when `connection` is lost, or does not answer; a better one when its server cannot be used.

        Until then check the bucket at intervals, and when a call failed for it. A server that was cut off from its
        cluster answers, but its bucket takes no writes. Then the others are tried, beside the checks. Away from the
        server that this process chose first, that one is tried now and then. So they spread over the servers again.
        """
        connection.when_lost.add(self._look.set)
        search: asyncio.Task[NatsConnection | None] | None = None
        home_at = monotonic() + HOME_INTERVAL * random.uniform(0.5, 1.5)
        search_at = 0.0
        try:
            while not connection.lost:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ALIVE_INTERVAL if self._is_usable else UNUSABLE_INTERVAL):
                        await self._look.wait()
                self._look.clear()
                if search is not None and search.done():
                    if (better := search.result()) is not None:
                        if not self._is_usable or better.where == place_of(self._home):
                            search = None
                            return better
                        await better.close()
                    search = None
                if not await self._answers(connection):
                    connection.lose(f"no answer within {ALIVE_TIMEOUT:g} s")
                    return None
                await self._look_at_bucket(connection, prepare=True)
                if search is None and not connection.lost:
                    urls = [url for url in self.urls if place_of(url) != connection.where]
                    if self._is_usable:
                        is_due = monotonic() >= home_at and self._home in urls
                        urls = [self._home] if is_due else []
                    if urls and monotonic() >= search_at:
                        search_at = monotonic() + random.uniform(0.5, 1.5) * SEARCH_PAUSE
                        home_at = monotonic() + HOME_INTERVAL * random.uniform(0.5, 1.5)
                        search = asyncio.create_task(self._find_better(random.sample(urls, len(urls))))
                        search.add_done_callback(lambda _: self._look.set())
                if not connection.lost:
                    await asyncio.sleep(LOOK_PAUSE)
            return None
        finally:
            if search is not None:
                await tasks.cancel_and_wait(search)  # once: it discards an attempt of its own
                await _discard(search)

    async def _answers(self, connection: NatsConnection) -> bool:
        """Whether the server answers within ALIVE_TIMEOUT. After SILENT, the engine is unavailable until it does."""
        asked = asyncio.create_task(connection.round_trip())
        try:
            await asyncio.wait({asked}, timeout=SILENT)
            if not asked.done():
                self._unusable(connection, f"no answer within {SILENT:g} s")
                await asyncio.wait({asked}, timeout=ALIVE_TIMEOUT - SILENT)
            return asked.done() and asked.exception() is None
        finally:
            await tasks.cancel_and_wait(asked)

    def _unusable(self, connection: NatsConnection, cause: str) -> None:
        is_news = self._is_usable or cause != self._cause
        self._is_usable, self._cause = False, cause
        if is_news:
            log.error("the engine cannot be used", server=connection.where, cause=cause)

    async def _look_at_bucket(self, connection: NatsConnection, prepare: bool = False) -> None:
        """Check that the bucket works and still has its contents; call `when_back` if either changed.

        prepare: check its options, too; a new connection has done that.
        """
        lacks = self._bucket.lacks
        seconds = self._timeout if len(self.urls) == 1 else min(self._timeout, LOOK_TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                if prepare:
                    await self._bucket.prepare(connection.ask)
                if self._bucket.full:
                    raise EngineError(self._bucket.full)
                is_same = await self._bucket.mark(connection.ask)
        except (EngineError, ConfigError, TimeoutError) as error:
            if connection.lost:
                return  # `_keep` reports it
            self._unusable(connection, str(error) or f"the bucket does not answer within {seconds:g} s")
            return
        except Exception as error:
            self._is_usable, self._cause = False, "the bucket could not be looked at"
            self._log.error("the bucket could not be looked at", exc_info=error)
            return
        self._watch_skew()
        was_usable, self._is_usable, self._cause = self._is_usable, True, ""
        self._refusals.clear()
        if not is_same:
            self.stats.contents_lost += 1
            self._relist_soon()
        if not was_usable or not is_same:
            for call in list(self.when_back):
                try:
                    call()
                except Exception as error:
                    self._log.error("a function of when_back failed", exc_info=error)
        if not is_same:
            log.error("the bucket lost its contents; live entries are written again", server=connection.where)
        if self._bucket.lacks and self._bucket.lacks != lacks:
            log.error("the bucket lacks options, and is used without them", lacks=self._bucket.lacks)

    def _relist_soon(self) -> None:
        """Have watches list all keys again, once other processes have had time to write theirs.

        Purged keys leave no markers, so watches do not see that they are gone.
        """
        if self._relisting is None:
            self._relisting = asyncio.get_running_loop().call_later(RELIST_AFTER, self._relist)

    def _relist(self) -> None:
        self._relisting = None
        for follower in self._followers:
            follower.begin_again()


def _on(connection: NatsConnection, subject: str) -> str:
    """The subject of a subscription on that connection."""
    return subject.replace(HERE, connection.id)


def _off(skew: float) -> str:
    """How far a clock is off, in words that go on with what it is off of."""
    return f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'}"


async def _ask_again(
    connection: NatsConnection, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
) -> Message:
    """Ask until there is an answer, for requests that may be repeated: NATS without a leader does not answer."""
    while True:
        try:
            async with asyncio.timeout(ASK_INTERVAL):
                return await connection.ask(subject, data, headers)
        except TimeoutError:
            pass


async def _discard(opening: asyncio.Task[NatsConnection] | asyncio.Task[NatsConnection | None]) -> None:
    """End an attempt to connect, and close the connection if it was made; also if the wait for that is cancelled."""
    await asyncio.shield(tasks.keep(_end_attempt(opening), "end of an attempt to connect to NATS"))


async def _end_attempt(opening: asyncio.Task[NatsConnection] | asyncio.Task[NatsConnection | None]) -> None:
    for _ in range(5):  # nats-py may swallow a cancellation
        opening.cancel()
        await asyncio.wait({opening}, timeout=0.2)
        if opening.done():
            break
    if opening.done() and not opening.cancelled() and opening.exception() is None:
        if (connection := opening.result()) is not None:
            await connection.close()
