"""A connection to NATS. The only module that imports `nats-py`, and the only one that uses private names of it.

Of nats-py only the part that carries messages is used. Its own reconnecting sends old messages late, its key-value
store writes entries that never expire, and its `flush` overtakes the messages before it. pyproject.toml bounds its
version, and tests/unit/cluster/test_nats_client.py fails when one of the private names changes.
"""

import asyncio
import contextlib
import math
import os
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gatelink import tasks
from gatelink.cluster.engine import MAX_VALUE, EngineStats, EngineUnavailable, NoResponder
from gatelink.cluster.engines.bucket import Message
from gatelink.errors import ConfigError, importing
from gatelink.logger import RateLimitedLogger

with importing(__name__, "cluster"):
    import nats.errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.aio.transport import TcpTransport

OLDEST = (2, 11)  # the first with per-message TTL
MAX_PENDING = 1 << 20  # bytes that wait for the socket; over it senders wait
DRAIN_TIMEOUT = 1.0  # s that the messages of an ended subscription may take
PENDING_PAUSE = 0.005  # s between two checks whether the socket has taken them
MAX_UNHANDLED, MAX_UNHANDLED_BYTES = 65_536, 32 << 20  # messages of one subscription; over it they are dropped

_FAILURES = (nats.errors.Error, OSError, RuntimeError)  # of nats-py, which lets errors of the transport through

Receive = Callable[[Message], Awaitable[None]]
Stop = Callable[[], Awaitable[None]]


class _Client(Client):
    """nats-py's client without its reconnecting: it reports that the connection is lost, once."""

    def __init__(self, on_lost: Callable[[str], None], on_error: Callable[[str], None]) -> None:
        super().__init__()
        self._on_lost = on_lost
        self._on_error = on_error
        self._is_aborted = False

    async def _process_op_err(self, e: Exception) -> None:
        self._on_lost(str(e) or type(e).__name__)

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            self._on_error(err_msg)
        else:
            self._on_lost(err_msg)

    async def _process_pong(self) -> None:
        """Take a PONG. Its waiter may have been cancelled; nats-py would raise, and never read again."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        if not self._is_aborted:  # `close` sends, and fails on a lost connection
            await super()._send_command(cmd, priority)

    def abort(self) -> None:
        """Drop what is queued. `close` then waits neither for the queue nor for the peer."""
        self._is_aborted = True
        for subscription in self._subs.values():  # `close` does not if the client has closed itself half way
            subscription._stop_processing()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()  # `close` does not if it was called before `connect` made them
        self._pending.clear()
        self._pending_data_size = 0
        if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:
            self._transport._io_writer.transport.abort()
            self._transport = None  # after a failed TLS handshake its `wait_closed` would never return

    async def stop_delivery(self, subscription: Subscription) -> None:
        """Unsubscribe at the server alone: messages that it has sent are still received and handled."""
        await self._send_unsubscribe(subscription._id)

    @property
    def has_jetstream(self) -> bool:
        return bool(self._server_info.get("jetstream"))


class NatsConnection:
    """One connection to one server of NATS. When it is lost, open requests raise EngineUnavailable."""

    def __init__(self, url: str, stats: EngineStats, log: RateLimitedLogger, unclosed: "set[NatsConnection]") -> None:
        """unclosed: its owner's connections; this one is among them until it is closed."""
        self.id = secrets.token_hex(4)
        self.where = place_of(url)
        self.when_lost: set[Callable[[], None]] = set()
        self.lost: str = ""
        """Why it cannot be used any more; "" while it can."""
        self._url = url
        self._stats = stats
        self._log = log
        self._client = _Client(self.lose, self._forbidden)
        self._inbox = ""
        self._error: Exception | None = None  # the last one that nats-py reported
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._replies: dict[str, Receive] = {}  # as `_answers`, for any number of answers
        self._asked = 0
        self._unclosed = unclosed
        unclosed.add(self)

    async def open(self, name: str, credentials: Path | None, timeout: float) -> None:  # noqa: ASYNC109 - nats-py's own
        """Raises EngineUnavailable, or ConfigError for credentials that are refused or a server too old."""
        url, user, password, token = _split(self._url)
        try:
            await self._client.connect(
                url,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=math.ceil(timeout),
                pending_size=0,
                error_cb=self._on_error,
                user_credentials=credentials,
                user=user,
                password=password,
                token=token,
                inbox_prefix=_inbox_of(user),
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            cause = self._error or error  # `error` may say only that no server is left
            text = os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else str(cause)
            text = text or type(cause).__name__
            if isinstance(cause, ssl.SSLCertVerificationError):
                text = (
                    f"its certificate is not trusted: {cause.verify_message}; "
                    "for an authority of your own set SSL_CERT_FILE to its certificate"
                )
            if "authorization" in text.lower():
                raise ConfigError(f"NATS at {self.where} refused the credentials of its URL or file") from None
            raise EngineUnavailable(f"NATS at {self.where}: {text}") from None
        if self.lost:  # closed before there was a socket to close
            raise EngineUnavailable(f"NATS at {self.where}: {self.lost}")
        version = self._client.connected_server_version
        if (version.major, version.minor) < OLDEST:
            raise ConfigError(f"NATS at {self.where} is {version}; keys that expire need 2.11 or newer")
        if self._client.max_payload < MAX_VALUE + 1_024:
            raise ConfigError(f"NATS at {self.where} has max_payload {self._client.max_payload}; 1 MiB is needed")
        self._inbox = self._client.new_inbox()
        await self.listen(f"{self._inbox}.*", self._answered)

    @property
    def has_jetstream(self) -> bool:
        return self._client.has_jetstream

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    def lose(self, why: str) -> None:
        """Mark the connection as lost, and fail the requests that wait for an answer."""
        if self.lost:
            return
        self.lost = why or "lost"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineUnavailable(f"the connection to NATS at {self.where} was lost: {why}"))
        for call in list(self.when_lost):
            call()

    async def close(self) -> None:
        """Close the socket at once, and wait for nats-py's tasks. They end even if the wait is cancelled."""
        self.lose("closed")
        self._client.abort()
        await asyncio.shield(tasks.keep(self._end(), "end of a connection to NATS"))

    async def _end(self) -> None:
        with contextlib.suppress(*_FAILURES):
            await self._client.close()
        self._unclosed.discard(self)

    async def settle(self, seconds: float) -> None:
        """Wait until no request waits for an answer, for up to `seconds`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self._answers and not self.lost and loop.time() < end:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(PENDING_PAUSE)

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Send a message; wait while MAX_PENDING bytes wait for the socket. Raises EngineUnavailable."""
        while not self.lost and self._client.pending_data_size > MAX_PENDING:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(PENDING_PAUSE)
        if self.lost:
            raise EngineUnavailable(f"the connection to NATS at {self.where} was lost: {self.lost}")
        try:
            with _cancellable():
                await self._client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except _FAILURES as error:
            raise self._failed(error) from None

    async def ask(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Message:
        """Send a request and return the answer; the caller sets the deadline. Raises NoResponder, EngineUnavailable."""
        self._asked += 1
        token = str(self._asked)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            reply = f"{self._inbox}.{token}"
            await self.send(subject or reply, data, headers, reply if subject else "")
            message = await answer
        finally:
            del self._answers[token]
            if answer.done() and not answer.cancelled():
                answer.exception()  # the connection was lost while the request was sent: nobody awaits it
        if message.headers.get("Status") == "503":
            raise NoResponder(f"{subject}: no server answers it")
        return message

    def open_reply(self, receive: Receive) -> str:
        """A subject whose messages go to `receive`, until `close_reply`."""
        self._asked += 1
        self._replies[str(self._asked)] = receive
        return f"{self._inbox}.{self._asked}"

    def close_reply(self, reply: str) -> None:
        self._replies.pop(reply.rpartition(".")[2], None)

    async def round_trip(self) -> None:
        """Wait until the server has read everything that was sent before: it echoes one more message."""
        await self.ask("")

    async def listen(self, subject: str, receive: Receive, queue: str = "") -> Stop:
        """Subscribe: call `receive` with each message, in order. Returns the function that ends it.

        Raises EngineUnavailable.
        """

        async def take(msg: Msg) -> None:
            await receive(Message(msg.subject, msg.reply, msg.data, msg.headers or {}))

        subscription = None
        try:
            with _cancellable():
                subscription = await self._client.subscribe(
                    subject,
                    queue=queue,
                    cb=take,
                    pending_msgs_limit=MAX_UNHANDLED,
                    pending_bytes_limit=MAX_UNHANDLED_BYTES,
                )
        except _FAILURES as error:
            raise self._failed(error) from None
        except asyncio.CancelledError:
            if subscription is not None:
                with contextlib.suppress(*_FAILURES):
                    await subscription.unsubscribe()
            raise
        return partial(self._unlisten, subscription)

    async def _unlisten(self, subscription: Subscription) -> None:
        """End a subscription once its messages are handled, within DRAIN_TIMEOUT."""
        if self.lost:
            return  # it ended with the connection
        with _cancellable():
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._client.stop_delivery(subscription)
                    await self.round_trip()
                    await subscription.drain()  # type: ignore[no-untyped-call]
            except (EngineUnavailable, TimeoutError, *_FAILURES):
                with contextlib.suppress(*_FAILURES):
                    await subscription.unsubscribe()

    async def _answered(self, message: Message) -> None:
        token = message.subject.rpartition(".")[2]
        if (receive := self._replies.get(token)) is not None:
            await receive(message)
            return
        answer = self._answers.get(token)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _failed(self, error: Exception) -> EngineUnavailable:
        self.lose(str(error) or type(error).__name__)
        return EngineUnavailable(f"NATS at {self.where}: {error}")

    def _forbidden(self, error: str) -> None:
        self._log.error("NATS forbids what this process wants to do", error=error, server=self.where)

    async def _on_error(self, error: Exception) -> None:
        self._error = error
        if isinstance(error, nats.errors.SlowConsumerError):
            self._stats.dropped += 1
            self._log.error("messages come faster than they are handled", subject=error.subject)


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Raise CancelledError if nats-py took it, as its `_flush_pending` does, and `asyncio.wait_for` of Python 3.11 may.

    Without it a task that is cancelled meanwhile would go on, and a caller that waits for its end would wait for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _inbox_of(user: str | None) -> str:
    """Where answers to the processes of a user of NATS go. Permissions can keep other users out of it."""
    return f"_INBOX_{user}" if user is not None and re.fullmatch(r"[A-Za-z0-9_-]+", user) else "_INBOX"


def _split(url: str) -> tuple[str, str | None, str | None, str | None]:
    """`url` without its user; then user and password, or else a token. nats-py does not decode a URL's escapes."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None, None, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    user = unquote(parts.username)
    return (bare, None, None, user) if parts.password is None else (bare, user, unquote(parts.password), None)


def place_of(url: str) -> str:
    """Host and port, without the password that a URL may have."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 4222}"
