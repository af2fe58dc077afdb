"""How a watch follows a bucket: with one NATS consumer after another. Each lists all keys, then reports changes."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from gatelink.cluster.engine import EngineError, EngineStats
from gatelink.cluster.engines.bucket import ApiError, KeyValueBucket, Message
from gatelink.cluster.engines.nats_client import NatsConnection
from gatelink.cluster.engines.view import View
from gatelink.logger import RateLimitedLogger

HEARTBEAT = 2.0  # s between two messages of an idle consumer
SILENCE = 3 * HEARTBEAT  # s after which a silent consumer is replaced
BEHIND = 3  # heartbeats after which it should have reached what this process had written at the first of them
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s before the next consumer, doubled after one that listed nothing


class _Delivered(msgspec.Struct, frozen=True):
    consumer_seq: int = 0


class _Created(msgspec.Struct):
    name: str = ""
    num_pending: int = 0
    delivered: _Delivered = _Delivered()
    error: ApiError | None = None


class _Consumer(msgspec.Struct):
    paused: bool = False


class Follower:
    """Keeps `view` a copy of the bucket's keys below `prefix`, whatever happens to connections.

    Consumers are ordered in the sense of NATS: not acknowledged, numbered without gaps. A gap, silence, a pause or a
    lost connection ends one. So does a nats-server that does not catch up with the others: there, living keys expire.
    The next one lists all keys again. Where its list differs from the view, the view reports changes.
    """

    def __init__(self, bucket: KeyValueBucket, prefix: str, stats: EngineStats, log: RateLimitedLogger) -> None:
        self.view = View()
        self.is_complete = asyncio.Event()
        """Set when the view has all keys for the first time, or at the end. Never cleared."""
        self._bucket = bucket
        self._prefix = prefix
        self._stats = stats
        self._log = log
        self._trouble = asyncio.Event()
        self._connection: NatsConnection | None = None
        self._fresh: dict[str, bytes] | None = None  # what this consumer listed, until it has listed all
        self._last = 0  # the number of its newest message
        self._received = 0  # messages and heartbeats
        self._written: deque[int] = deque(maxlen=BEHIND)  # the newest revision written here, at the last heartbeats
        self._is_behind = False

    async def run(self, connected: Callable[[], Awaitable[NatsConnection]]) -> None:
        """Follow until cancelled. connected: waits for a connection, and returns it."""
        pause = FIRST_PAUSE
        logged = ""
        while True:
            connection = await connected()
            try:
                await self._follow(connection)
            except EngineError as error:
                if self._fresh is None or str(error) != logged:  # else an outage has a line for each attempt
                    self._log.info("a watch begins again", prefix=self._prefix, cause=str(error))
                logged = str(error)
            except Exception as error:
                self._log.error("a watch failed and begins again", prefix=self._prefix, exc_info=error)
            self._stats.resyncs += 1
            pause = FIRST_PAUSE if self._fresh is None else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))

    def begin_again(self) -> None:
        """Make the next consumer now, which lists all keys again."""
        self._trouble.set()

    def end(self) -> None:
        """End the view: no change will follow."""
        self.view.end()
        self.is_complete.set()

    async def _follow(self, connection: NatsConnection) -> None:
        """Make a consumer, and return when the next one must replace it. Raises EngineError."""
        self._connection, self._fresh, self._last, self._received = connection, {}, 0, 0
        self._written.clear()
        self._is_behind = False
        self._trouble.clear()
        inbox = connection.new_inbox()
        stop = await connection.listen(inbox, self._take)
        connection.when_lost.add(self._trouble.set)
        try:
            created = await self._create(connection, inbox)
            if created.num_pending == created.delivered.consumer_seq == 0:
                self._listed()
            while True:
                received = self._received
                try:
                    async with asyncio.timeout(SILENCE):
                        await self._trouble.wait()
                    if self._is_behind:
                        raise EngineError("the nats-server of its consumer is behind the others")
                    return
                except TimeoutError:
                    if self._received == received:
                        raise EngineError(f"no message for {SILENCE:g} s") from None
                if await self._is_paused(connection, created.name):
                    raise EngineError(f"somebody paused its consumer {created.name}")
        finally:
            connection.when_lost.discard(self._trouble.set)
            await stop()  # the server removes a consumer without a subscription

    async def _is_paused(self, connection: NatsConnection, name: str) -> bool:
        """Whether an operator paused the consumer. Its heartbeats go on, and do not say so. False without an answer."""
        try:
            async with asyncio.timeout(HEARTBEAT):
                reply = await connection.ask(f"$JS.API.CONSUMER.INFO.{self._bucket.stream}.{name}")
        except (EngineError, TimeoutError):
            return False
        return msgspec.json.decode(reply.data, type=_Consumer).paused

    async def _create(self, connection: NatsConnection, inbox: str) -> _Created:
        """Raises EngineError, also if there is no answer, as from a cluster without a leader."""
        try:
            async with asyncio.timeout(HEARTBEAT):
                reply = await connection.ask(f"$JS.API.CONSUMER.CREATE.{self._bucket.stream}", self._config(inbox))
        except TimeoutError:
            raise EngineError(f"no consumer of {self._bucket.stream} within {HEARTBEAT:g} s") from None
        created = msgspec.json.decode(reply.data, type=_Created)
        if created.error is not None:
            raise EngineError(f"no consumer of {self._bucket.stream}: {created.error.description}")
        return created

    async def _take(self, message: Message) -> None:
        """Take one message of the consumer: a change, a heartbeat, or flow control (status 100)."""
        self._received += 1
        if not message.reply.startswith("$JS.ACK."):
            await self._control(message)
            return
        if self._trouble.is_set():
            return
        number, pending = _position(message.reply)
        if number != self._last + 1:
            self._trouble.set()  # what came between was dropped
            return
        self._last = number
        key, value = self._bucket.change_of(message)
        if self._fresh is None:
            self.view.set(key, value)
            return
        if value is not None:
            self._fresh[key] = value
        else:
            self._fresh.pop(key, None)
        if pending == 0:
            self._listed()

    async def _control(self, message: Message) -> None:
        assert self._connection is not None
        if answer := message.reply or message.headers.get("Nats-Consumer-Stalled", ""):
            await self._connection.send(answer, b"")
        elif (last := message.headers.get("Nats-Last-Consumer")) is not None:
            if int(last) != self._last:
                self._trouble.set()
            else:
                self._listed()  # the consumer is idle: messages that it announced have expired
                self._check_reached(int(message.headers.get("Nats-Last-Stream", self._bucket.newest)))

    def _check_reached(self, revision: int) -> None:
        """End a consumer whose nats-server has only reached an older revision than this process wrote long ago."""
        if len(self._written) == BEHIND and revision < self._written[0]:
            self._is_behind = True
            self._trouble.set()
        self._written.append(self._bucket.newest)

    def _listed(self) -> None:
        """Give the view the consumer's list, which is complete."""
        if self._fresh is None:
            return
        entries, self._fresh = self._fresh, None
        if self.is_complete.is_set():
            self.view.replace(entries)
        else:
            self.view.open(entries)
            self.is_complete.set()

    def _config(self, inbox: str) -> bytes:
        return msgspec.json.encode(
            {
                "stream_name": self._bucket.stream,
                "config": {
                    "deliver_policy": "last_per_subject",
                    "deliver_subject": inbox,
                    "filter_subject": f"{self._bucket.prefix}{self._prefix}.>",  # with two it lists ten times slower
                    "ack_policy": "none",
                    "max_deliver": 1,
                    "flow_control": True,
                    "idle_heartbeat": int(HEARTBEAT * 1e9),
                    "num_replicas": 1,
                    "mem_storage": True,
                },
            }
        )


def _position(reply: str) -> tuple[int, int]:
    """(number in the consumer, messages still to come) of the reply subject of a message.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<number>.<time>.<pending>`, in newer servers with domain
    and account after `ACK` and a random word at the end.
    """
    words = reply.split(".")
    return (int(words[6]), int(words[8])) if len(words) == 9 else (int(words[8]), int(words[10]))
