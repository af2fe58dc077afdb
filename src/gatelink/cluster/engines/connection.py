"""A connection to NATS. The only file that knows `nats-py`, and of that only what carries messages.

What it offers on top is not used: its own connecting again keeps what was to be sent and sends it late, its key-value
store writes what never expires, its `flush` overtakes what it is to flush.
"""

import asyncio
import contextlib
import math
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gatelink.cluster.engine import EngineUnavailable, NoResponder
from gatelink.cluster.engines.bucket import Message
from gatelink.cluster.engines.checks import MAX_VALUE
from gatelink.cluster.engines.stats import EngineStats
from gatelink.errors import ConfigError, importing
from gatelink.rate_limited_logger import RateLimitedLogger

with importing(__name__, "cluster"):
    import nats.errors
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

OLDEST = (2, 11)  # the first with per-message TTL
MAX_PENDING = 1 << 20  # bytes handed to the connection that its socket has not taken; over it senders wait
DRAIN_TIMEOUT = 1.0  # s that a subscription which is ended may take for what is under way
PENDING_PAUSE = 0.005  # s between two looks whether it has
MAX_UNHANDLED, MAX_UNHANDLED_BYTES = 65_536, 32 << 20  # messages of one subscription; what comes then is dropped

_FAILURES = (nats.errors.Error, OSError, RuntimeError)  # of nats-py; what the transport raised is let through

Receive = Callable[[Message], Awaitable[None]]
Stop = Callable[[], Awaitable[None]]


class _Client(Client):
    """Lost once, lost for good: it says so, and leaves connecting again to its owner."""

    def __init__(self, on_lost: Callable[[str], None], on_error: Callable[[str], None]) -> None:
        super().__init__()
        self._on_lost = on_lost
        self._on_error = on_error
        self._is_over = False

    async def _process_op_err(self, e: Exception) -> None:
        self._on_lost(str(e) or type(e).__name__)

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg.lower():
            self._on_error(err_msg)
        else:
            self._on_lost(err_msg)

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        if not self._is_over:  # `close` fails on what it finds to be sent to a connection that is gone
            await super()._send_command(cmd, priority)

    def forget(self) -> None:
        """Has `close` wait for nothing: neither what is still to be sent nor the peer's end of the connection."""
        self._is_over = True
        self._pending.clear()
        self._pending_data_size = 0
        if (writer := getattr(self._transport, "_io_writer", None)) is not None:
            writer.transport.abort()
            self._transport = None  # the stream of a TLS handshake that failed never says that it is closed

    @property
    def has_jetstream(self) -> bool:
        return bool(self._server_info.get("jetstream"))


class NatsConnection:
    """One connection to one server of NATS, until it is lost; who waits for an answer then gets EngineUnavailable."""

    def __init__(self, url: str, stats: EngineStats, log: RateLimitedLogger) -> None:
        self.where = place_of(url)
        self.when_lost: set[Callable[[], None]] = set()
        self.lost: str = ""
        """Why it is of no more use; "" while it is."""
        self._url = url
        self._stats = stats
        self._log = log
        self._client = _Client(self.lose, partial(self._log.error, "NATS forbids", server=self.where))
        self._inbox = ""
        self._error: Exception | None = None  # the last that nats-py told of
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._asked = 0

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
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            cause = self._error or error  # that no server is left says nothing of why
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
        """It is of no more use."""
        if self.lost:
            return
        self.lost = why or "lost"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineUnavailable(f"the connection to NATS at {self.where} was lost: {why}"))
        for tell in list(self.when_lost):
            tell()

    async def close(self) -> None:
        self.lose("closed")
        self._client.forget()
        with contextlib.suppress(*_FAILURES):
            await self._client.close()

    async def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Hands it to the connection; waits for room while its socket is full. Raises EngineUnavailable."""
        while not self.lost and self._client.pending_data_size > MAX_PENDING:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(PENDING_PAUSE)
        if self.lost:
            raise EngineUnavailable(f"the connection to NATS at {self.where} was lost: {self.lost}")
        try:
            await self._client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except _FAILURES as error:
            raise self._failed(error) from None

    async def ask(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Message:
        """The answer; the caller sets the deadline. Raises NoResponder, EngineUnavailable."""
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
        if message.headers.get("Status") == "503":
            raise NoResponder(f"{subject}: nobody serves it")
        return message

    async def round_trip(self) -> None:
        """Returns when the server has read all that was sent before: it has given back what came last."""
        await self.ask("")

    async def listen(self, subject: str, receive: Receive, queue: str = "") -> Stop:
        """Has `receive` called, in order; returns what ends it. Raises EngineUnavailable."""

        async def take(msg: Msg) -> None:
            await receive(Message(msg.subject, msg.reply, msg.data, msg.headers or {}))

        try:
            subscription = await self._client.subscribe(
                subject,
                queue=queue,
                cb=take,
                pending_msgs_limit=MAX_UNHANDLED,
                pending_bytes_limit=MAX_UNHANDLED_BYTES,
            )
        except _FAILURES as error:
            raise self._failed(error) from None
        return partial(self._unlisten, subscription)

    async def _unlisten(self, subscription: Subscription) -> None:
        """Ends it when what the server had sent by now is received and handled, if that is soon."""
        if self.lost:
            return  # with the connection
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self._client._send_unsubscribe(subscription._id)
                await self.round_trip()
                await subscription.drain()  # type: ignore[no-untyped-call]
        except (EngineUnavailable, TimeoutError, *_FAILURES):
            with contextlib.suppress(*_FAILURES):
                await subscription.unsubscribe()

    async def _answered(self, message: Message) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _failed(self, error: Exception) -> EngineUnavailable:
        self.lose(str(error) or type(error).__name__)
        return EngineUnavailable(f"NATS at {self.where}: {error}")

    async def _on_error(self, error: Exception) -> None:
        self._error = error
        if isinstance(error, nats.errors.SlowConsumerError):
            self._stats.dropped += 1
            self._log.error("messages come faster than they are handled", subject=error.subject)


def _split(url: str) -> tuple[str, str | None, str | None, str | None]:
    """`url` without its user; then user and password, or else a token. nats-py would not undo a URL's escapes."""
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
