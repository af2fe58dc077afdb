"""The engine of servers that live in many processes: NATS 2.11 or newer, with JetStream."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Self, TypeVar

from gatelink import tasks
from gatelink.cluster.engine import (
    CallTimeout,
    EngineError,
    EngineStats,
    EngineUnavailable,
    Entry,
    NoResponder,
    Revision,
    Subscription,
)
from gatelink.cluster.engines.bucket import BucketUnfit, KeyValueBucket, Message
from gatelink.cluster.engines.checks import check_name, check_timeout, check_value, check_write
from gatelink.cluster.engines.follow import Follower
from gatelink.cluster.engines.nats_client import NatsConnection, Receive, Stop, place_of
from gatelink.cluster.engines.view import View
from gatelink.cluster.engines.workers import RequestWorkers, request_failed
from gatelink.errors import ConfigError
from gatelink.logger import Logger
from gatelink.rate_limited_logger import RateLimitedLogger

log = Logger("gatelink.engine")

MAX_CALLS = 10_000  # under way at a time; more are refused
ALIVE_INTERVAL, ALIVE_TIMEOUT = 2.0, 5.0  # s between two questions whether the connection lives, and for the answer
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # s before connecting again, doubled each time
STEADY = 10.0  # s; a connection that is lost sooner counts as one more that could not be made
LOOK_PAUSE = 0.1  # s between two looks at the bucket, at least
RELIST_AFTER = ALIVE_INTERVAL + 1.0  # s after which watches list again what is in a bucket that lost its contents
ATTEMPT_FACTOR, START_FACTOR = 2, 5  # deadlines that one attempt to connect may take, and a start in all
ASK_INTERVAL = 0.5  # s after which a server that is silent about the bucket is asked again

_T = TypeVar("_T")

_FAILURE, _TIMEOUT = "Gatelink-Failure", "Gatelink-Timeout"


class _Listener:
    """A subscription of the application, made again on each connection."""

    def __init__(self, listeners: "set[_Listener]", subject: str, receive: Receive, queue: str) -> None:
        self.is_closed = False
        self._listeners = listeners
        self._subject = subject
        self._receive = receive
        self._queue = queue
        self._connection: NatsConnection | None = None
        self._stop: Stop | None = None
        listeners.add(self)

    async def open(self, connection: NatsConnection) -> None:
        if self._connection is not connection:
            self._connection = connection
            self._stop = await connection.listen(self._subject, self._take, self._queue)

    async def close(self) -> None:
        self._listeners.discard(self)
        if self._stop is not None and not self.is_closed:
            await self._stop()
        self.is_closed = True

    async def _take(self, message: Message) -> None:
        if not self.is_closed:
            await self._receive(message)


class NatsEngine:
    """An `Engine` on NATS.

    urls: `nats://user:password@host:port` or `tls://...`, user and password with a URL's escapes; name all servers of a
    cluster. credentials: a file of the kind that `nsc` makes, instead of a password. name: shown in NATS' monitoring.
    timeout: the deadline of each call in seconds. replicas: of the bucket, if it has to be made. bucket: the cluster's;
    its events and requests have subjects that begin with it.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        credentials: Path | None = None,
        name: str = "gatelink",
        timeout: float = 2.0,
        replicas: int = 1,
        bucket: str = "gatelink",
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
        self._cluster = bucket
        self._bucket = KeyValueBucket(bucket, replicas)
        self._log = RateLimitedLogger(log)
        self._workers = RequestWorkers(self.stats, self._log)
        self._connection: NatsConnection | None = None
        self._up = asyncio.Event()
        self._is_closed = True
        self._cause = ""  # why the last connect failed, or the bucket cannot be used
        self._is_usable = False  # the bucket, when it was last looked at
        self._look = asyncio.Event()  # something is wrong with the bucket
        self._relisting: asyncio.TimerHandle | None = None
        self.when_back: set[Callable[[], None]] = set()
        self._calls = 0
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
            raise
        self._adopt(connection)
        try:
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
        if self._keeper is not None:
            await tasks.cancel_and_wait(self._keeper)
        await self._workers.close()
        if (connection := self._connection) is not None:
            with contextlib.suppress(EngineUnavailable, TimeoutError):  # what was published goes out first
                async with asyncio.timeout(self._timeout):
                    await connection.round_trip()
            await connection.close()
        self._connection = None
        self._up.set()  # calls that wait for a connection fail now

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def is_available(self) -> bool:
        return self._connection is not None and self._is_usable

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

        async with self._call("serve"):
            return await self._listen(f"{self._cluster}.request.{subject}", receive, queue="serve")

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - as the interface
        check_name(subject)
        check_value(data)
        check_timeout(timeout)
        async with self._call("request", timeout, CallTimeout):
            connection = await self._connected()
            headers = {_TIMEOUT: f"{timeout:g}"}
            message = await connection.ask(f"{self._cluster}.request.{subject}", data, headers)
            if failure := message.headers.get(_FAILURE):
                raise request_failed(subject, failure, message.data)
            return message.data

    # -- calls --

    @contextlib.asynccontextmanager
    async def _call(
        self,
        name: str,
        timeout: float | None = None,  # noqa: ASYNC109 - sets it
        late: type[EngineError] = EngineUnavailable,
    ) -> AsyncIterator[None]:
        """Counts a call and bounds it. Raises `late` after the deadline, EngineUnavailable without a connection."""
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
                why = f"no answer within {timeout:g} s" + (f": {self._cause}" if self._cause else "")
                raise late(f"{name}: {why}") from None
            finally:
                self._calls -= 1

    async def _keys(self, name: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Call the bucket; repeat the call while the bucket is unfit, since nothing was done."""
        async with self._call(name):
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
        """Tries the servers until one does. Raises ConfigError."""
        pause = FIRST_PAUSE
        while True:
            for url in random.sample(self.urls, len(self.urls)):
                try:
                    return await self._attempt(url)
                except (EngineUnavailable, NoResponder) as error:
                    self._cause = str(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, url: str) -> NatsConnection:
        """`_open` in a task of its own: nats-py connects by `wait_for`, which before Python 3.12 may swallow a
        cancellation, and so the caller's deadline.
        """
        opening = asyncio.create_task(self._open(url))
        try:
            await asyncio.wait({opening}, timeout=ATTEMPT_FACTOR * self._timeout)
        except asyncio.CancelledError:
            await _discard(opening)
            raise
        if not opening.done():
            await _discard(opening)
            raise EngineUnavailable(f"NATS at {place_of(url)} did not answer")
        return opening.result()

    async def _open(self, url: str) -> NatsConnection:
        connection = NatsConnection(url, self.stats, self._log)
        try:
            await connection.open(self._name, self._credentials, self._timeout)
            try:
                await self._bucket.prepare(partial(_ask_again, connection))
            except NoResponder:
                if connection.has_jetstream:
                    raise
                raise ConfigError(f"NATS at {connection.where} runs without JetStream; add `jetstream {{}}`") from None
            for listener in list(self._listeners):
                await listener.open(connection)
            await connection.round_trip()
        except BaseException:
            await connection.close()
            raise
        return connection

    def _adopt(self, connection: NatsConnection) -> None:
        self._connection = connection
        connection.when_lost.add(self._down)
        self._up.set()

    def _down(self) -> None:
        if not self._is_closed:
            self._connection = None
            self._is_usable = False
            self._up.clear()

    async def _keep(self, connection: NatsConnection) -> None:
        """Reconnect whenever the connection is lost, until it is cancelled."""
        pause = FIRST_PAUSE
        connection = self._connection or connection  # a newer one, if this begins again after an error
        while True:
            opened_at = monotonic()
            await self._until_lost(connection)
            lost_at = monotonic()
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

    async def _until_lost(self, connection: NatsConnection) -> None:
        """Return when `connection` is lost, or does not answer.

        Until then check the bucket at intervals, and when a call found it unfit.
        """
        connection.when_lost.add(self._look.set)
        while not connection.lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_INTERVAL):
                    await self._look.wait()
            self._look.clear()
            try:
                async with asyncio.timeout(ALIVE_TIMEOUT):
                    await connection.round_trip()
            except (EngineUnavailable, TimeoutError):
                connection.lose(f"no answer within {ALIVE_TIMEOUT:g} s")
                return
            await self._look_at_bucket(connection, prepare=True)
            if not connection.lost:
                await asyncio.sleep(LOOK_PAUSE)

    async def _look_at_bucket(self, connection: NatsConnection, prepare: bool = False) -> None:
        """Check that the bucket works and still has its contents; call `when_back` if either changed.

        prepare: check its options, too; a new connection has done that.
        """
        lacks = self._bucket.lacks
        try:
            async with asyncio.timeout(self._timeout):
                if prepare:
                    await self._bucket.prepare(connection.ask)
                if self._bucket.full:
                    raise EngineError(self._bucket.full)
                is_same = await self._bucket.mark(connection.ask)
        except (EngineError, ConfigError, TimeoutError) as error:
            if connection.lost:
                return  # `_keep` reports it
            cause = str(error) or f"the bucket does not answer within {self._timeout:g} s"
            is_news = self._is_usable or cause != self._cause
            self._is_usable, self._cause = False, cause
            if is_news:
                log.error("the engine cannot be used", server=connection.where, cause=cause)
            return
        except Exception as error:
            self._is_usable, self._cause = False, "the bucket could not be looked at"
            self._log.error("the bucket could not be looked at", exc_info=error)
            return
        was_usable, self._is_usable, self._cause = self._is_usable, True, ""
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


async def _discard(opening: asyncio.Task[NatsConnection]) -> None:
    """End an attempt to connect, and close the connection if it was made."""
    opening.cancel()
    await asyncio.wait({opening}, timeout=1)
    if opening.done() and not opening.cancelled() and opening.exception() is None:
        await opening.result().close()
