"""The keys of a cluster in a key-value bucket of JetStream: a stream that keeps the last message of each subject.

NATS' key-value stores are such streams (architecture decision record 8). Each message expires by its own `Nats-TTL`. A
key that expires or is deleted leaves a marker for a while, so that watches see it (43, 48). This module uses the stream
itself, as the client's own `KeyValue.put` and `update` write entries that never expire. It knows no connection.
"""

import re
import secrets
from collections.abc import Awaitable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from gatelink.cluster.engine import Conflict, EngineError, EngineUnavailable, Entry, Revision
from gatelink.cluster.engines.clock import EngineClock
from gatelink.errors import ConfigError

MARK_TTL = 600  # s
ROOM = 4_096  # bytes that a bucket with a limit must have left for a new key, and allow for one
MARKER_TTL = 120  # s that a marker is kept; a watch without a message for that long has begun again before

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_TTL = "Nats-TTL"
_OPERATION = "KV-Operation"
_MARKER = "Nats-Marker-Reason"

_NO_STREAM, _NO_MESSAGE, _STREAM_EXISTS = 10059, 10037, 10058
_WRONG_LAST = {10071, 10164}
_JETSTREAM_OFF = {10039, 10076}
_NO_LEADER = 10008  # of all of JetStream
_UNFIT = {_NO_STREAM, 10166, 10109, _NO_LEADER}  # nothing is there, it keeps keys for ever, it takes no writes
_TOO_FEW_SERVERS = 10005  # of the cluster are there, or not yet


class BucketUnfit(EngineUnavailable):
    """The bucket is not there, has no leader, or cannot hold keys that expire; nothing was done.

    An election or `KeyValueBucket.prepare` mends it.
    """


class Message(NamedTuple):
    """What NATS delivers."""

    subject: str
    reply: str
    data: bytes
    headers: Mapping[str, str]


class Ask(Protocol):
    """Sends a request; the answer. Raises NoResponder, EngineUnavailable."""

    def __call__(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Awaitable[Message]: ...


class ApiError(msgspec.Struct):
    """An error of JetStream."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Written(msgspec.Struct):
    seq: int = 0
    error: ApiError | None = None


class _Stored(msgspec.Struct):
    seq: int
    data: bytes = b""
    hdrs: bytes = b""


class _Found(msgspec.Struct):
    message: _Stored | None = None
    error: ApiError | None = None


class _State(msgspec.Struct, frozen=True):
    messages: int = 0
    bytes: int = 0


class _Stream(msgspec.Struct):
    config: dict[str, Any] = {}
    state: _State = _State()
    ts: datetime | None = None  # the leader's time
    error: ApiError | None = None


class KeyValueBucket:
    """The keys of the bucket `name`. If it has to be made, it gets `replicas`. `clock` follows its leader's.

    The bucket has a key of its own, the mark. While the mark is the one written last, the bucket has its contents.
    Otherwise the bucket was emptied, made again, or restored from an older copy.
    """

    def __init__(self, name: str, replicas: int) -> None:
        self.stream = f"KV_{name}"
        self.prefix = f"$KV.{name}."
        self.clock = EngineClock()
        self._replicas = replicas
        self.lacks = ""
        """Options that the bucket lacks and is used without; "" if it lacks none."""
        self.full = ""
        """Why a new key does not fit; "" if it does. A limit that an operator set is not changed."""
        self._is_ours = False  # it was made or accepted once
        self._mark = f"marks.{secrets.token_hex(8)}"
        self._last_mark: Revision | None = None  # the last write of the mark that was acknowledged
        self._mark_may_be: set[bytes] = set()  # an unanswered write may have been done
        self.newest = 0
        """The highest revision that was acknowledged to this process."""

    async def prepare(self, ask: Ask) -> None:
        """Make the bucket, or check the one that is there. Raises ConfigError, EngineUnavailable, NoResponder.

        At first a bucket with wrong options is refused, since it may be another application's. Later it is this
        cluster's, and changed options are set back.
        """
        found = await self._find(ask)
        config = found.config
        self.full = _full(config, found.state)
        needed = _lacking(self._needed(config))
        wished = _lacking(self._wished(config))
        if not self._is_ours and (needed or wished):
            fix = f"if nothing else uses it, remove it with `nats stream rm {self.stream}`, and it is made again"
            if not _is_final(config):
                fix = f"give it that with `nats stream edit {self.stream}`, or, {fix}"
            raise ConfigError(f"the bucket {self.stream} is there and lacks {' '.join([*needed, *wished])}; {fix}")
        if needed:
            await self._mend(ask, config, needed)
        self.lacks = " ".join(wished)
        self._is_ours = True

    async def mark(self, ask: Ask) -> bool:
        """Write the mark, which shows that the bucket works. Returns whether the bucket still has what it had.

        Raises EngineError for a bucket that does not take the write.
        """
        before, last = self.newest, self._last_mark
        value = secrets.token_bytes(8)
        may_be = self._mark_may_be
        self._mark_may_be = may_be | {value} if len(may_be) < 100 else {value}
        is_same = True
        try:
            if last is None:
                self._last_mark = await self.put(ask, self._mark, value, MARK_TTL)
            else:
                self._last_mark = await self.update(ask, self._mark, value, MARK_TTL, last)
        except Conflict:
            found = await self.get(ask, self._mark)
            is_same = found is not None and found.value in may_be
            self._last_mark = await self.put(ask, self._mark, value, MARK_TTL)
        self._mark_may_be = {value}
        if self._last_mark <= before:  # an older copy, in which the mark happens to be the same
            is_same = False
            self.newest = self._last_mark
        return is_same

    async def probe(self, ask: Ask) -> None:
        """Write a key of its own beside the mark. Raises EngineError if the bucket does not take it."""
        if self.full:
            raise EngineError(self.full)
        await self.put(ask, f"{self._mark}-probe", b"", MARK_TTL)

    async def _find(self, ask: Ask) -> _Stream:
        """The bucket; makes it if it is not there."""
        found = await self._stream(ask, "INFO", b"")
        if found.error is not None and found.error.err_code == _NO_STREAM:
            found = await self._stream(ask, "CREATE", msgspec.json.encode(self._config()))
            if found.error is not None and found.error.err_code == _STREAM_EXISTS:  # another server was faster
                found = await self._stream(ask, "INFO", b"")
        if found.error is not None:
            if found.error.err_code in _JETSTREAM_OFF:
                raise ConfigError("NATS runs without JetStream for this account; add `jetstream {}` to its settings")
            if found.error.code == 503 or found.error.err_code == _TOO_FEW_SERVERS:
                raise EngineUnavailable(f"JetStream: {found.error.description}")
            raise ConfigError(f"the bucket {self.stream} could not be made or read: {found.error.description}")
        return found

    async def _mend(self, ask: Ask, config: Mapping[str, Any], lacking: list[str]) -> None:
        """Give the bucket the options that it lacks; the others stay as an operator set them. Raises ConfigError."""
        options = {name: self._config()[name] for name in _MENDED}
        changed = await self._stream(ask, "UPDATE", msgspec.json.encode(dict(config) | options))
        still = lacking if changed.error is not None else _lacking(self._needed(changed.config))
        if still:
            why = f" ({changed.error.description})" if changed.error is not None else ""
            raise ConfigError(
                f"the bucket {self.stream} lacks {' '.join(still)}, which cannot be changed{why}; "
                f"remove it with `nats stream rm {self.stream}`, and it is made again"
            )

    async def get(self, ask: Ask, key: str) -> Entry | None:
        """Read where it was written, by the stream's leader: a replica's answer may be older than one's own write."""
        found = await self._last(ask, key)
        if found is None or _is_marker(found.hdrs):
            return None
        return Entry(key, found.data, Revision(found.seq))

    async def put(self, ask: Ask, key: str, value: bytes, seconds: int) -> Revision:
        return await self._write(ask, key, value, {_TTL: str(seconds)})

    async def create(self, ask: Ask, key: str, value: bytes, seconds: int) -> Revision:
        """Write a key that is not there, or whose marker is. Raises Conflict.

        While markers come and go, it tries again until its caller's deadline.
        """
        expected = 0
        while True:
            try:
                return await self._write(ask, key, value, {_TTL: str(seconds), _EXPECTED: str(expected)})
            except Conflict:
                found = await self._last(ask, key)
                if found is not None and not _is_marker(found.hdrs):
                    raise Conflict(f"{key}: is there already") from None
                expected = found.seq if found is not None else 0

    async def update(self, ask: Ask, key: str, value: bytes, seconds: int, revision: Revision) -> Revision:
        return await self._write(ask, key, value, {_TTL: str(seconds), _EXPECTED: str(revision)})

    async def delete(self, ask: Ask, key: str, revision: Revision | None) -> None:
        headers = {_OPERATION: "DEL", _TTL: str(MARKER_TTL)}
        if revision is not None:
            headers[_EXPECTED] = str(revision)
        await self._write(ask, key, b"", headers)

    def change_of(self, message: Message) -> tuple[str, bytes | None]:
        """The key, and its value or None, that a message of the stream is about."""
        is_gone = _OPERATION in message.headers or _MARKER in message.headers
        return message.subject.removeprefix(self.prefix), None if is_gone else message.data

    async def _stream(self, ask: Ask, verb: str, data: bytes) -> _Stream:
        """Ask about the bucket, and so measure the time of the server that leads it."""
        sent = self.clock.monotonic()
        reply = await ask(f"$JS.API.STREAM.{verb}.{self.stream}", data)
        found = msgspec.json.decode(reply.data, type=_Stream)
        if found.ts is not None and found.ts.year > 1:
            self.clock.measured(sent, found.ts.timestamp(), self.clock.monotonic())
        return found

    async def _last(self, ask: Ask, key: str) -> _Stored | None:
        request = msgspec.json.encode({"last_by_subj": self.prefix + key})
        reply = await ask(f"$JS.API.STREAM.MSG.GET.{self.stream}", request)
        found = msgspec.json.decode(reply.data, type=_Found)
        if found.error is not None and found.error.err_code != _NO_MESSAGE:
            raise _failure(key, found.error)
        return found.message

    async def _write(self, ask: Ask, key: str, value: bytes, headers: Mapping[str, str]) -> Revision:
        reply = await ask(self.prefix + key, value, headers)
        written = msgspec.json.decode(reply.data, type=_Written)
        if written.error is not None:
            raise _failure(key, written.error)
        self.newest = max(self.newest, written.seq)
        return Revision(written.seq)

    def _config(self) -> dict[str, Any]:
        return {
            "name": self.stream,
            "subjects": [self.prefix + ">"],
            "storage": "file",
            "num_replicas": self._replicas,
            "retention": "limits",
            "discard_new_per_subject": False,
            "subject_transform": None,
            "discard": "new",  # at a limit that somebody sets it says so, rather than forget a key
            "max_msgs_per_subject": 1,
            "max_age": 0,
            "no_ack": False,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": MARKER_TTL * 1_000_000_000,
            "allow_rollup_hdrs": True,  # the server's own markers roll up what was there
            "deny_delete": True,
            "allow_direct": True,
        }

    def _needed(self, config: Mapping[str, Any]) -> dict[str, bool]:
        """Options without which keys are lost, or never expire; whether `config` has each."""
        return {
            "--allow-msg-ttl": bool(config.get("allow_msg_ttl")),
            f"--subject-del-markers-ttl={MARKER_TTL}s": config.get("subject_delete_marker_ttl", 0) >= 1_000_000_000,
            "--max-msgs-per-subject=1": config.get("max_msgs_per_subject") == 1,
            "--discard=new": config.get("discard") == "new",
            "--no-discard-per-subject": not config.get("discard_new_per_subject"),  # it refuses every second write
            "no subject transform": not config.get("subject_transform"),  # keys would be under other names
            "--retention=limits": config.get("retention", "limits") == "limits",
            "--max-age=0": not config.get("max_age"),
            "--ack": not config.get("no_ack"),
            f"--subjects='{self.prefix}>'": config.get("subjects") == [self.prefix + ">"],
            "no seal": not config.get("sealed"),
        }

    def _wished(self, config: Mapping[str, Any]) -> dict[str, bool]:
        """Options without which the bucket works, but may not outlive a server; whether `config` has each."""
        return {
            "--storage=file": config.get("storage") == "file",
            f"--replicas={self._replicas}": config.get("num_replicas", 1) >= self._replicas,
        }


_MENDED = (
    "subjects",
    "retention",
    "discard",
    "discard_new_per_subject",
    "subject_transform",
    "max_msgs_per_subject",
    "max_age",
    "no_ack",
    "allow_msg_ttl",
    "subject_delete_marker_ttl",
    "allow_rollup_hdrs",
)


def _is_final(config: Mapping[str, Any]) -> bool:
    """Whether a stream has options that no edit changes."""
    return bool(config.get("sealed")) or config.get("retention") == "workqueue"


def _full(config: Mapping[str, Any], state: _State) -> str:
    """Why a bucket of those options and contents takes no new key; "" if it does."""
    most, most_bytes = config.get("max_msgs", -1), config.get("max_bytes", -1)
    if 0 < most <= state.messages:
        return f"the bucket is full: {state.messages} messages of max_msgs {most}"
    if 0 < most_bytes < state.bytes + ROOM:
        return f"the bucket is full: {state.bytes} bytes of max_bytes {most_bytes}"
    if 0 < (most_of_one := config.get("max_msg_size", -1)) < ROOM:
        return f"the bucket takes values of max_msg_size {most_of_one} bytes; it needs {ROOM}"
    return ""


def _lacking(options: Mapping[str, bool]) -> list[str]:
    return [option for option, is_there in options.items() if not is_there]


def _is_marker(headers: bytes) -> bool:
    """Whether the headers of a stored message say that its key is gone."""
    return bool(headers) and re.search(rf"^(?:{_OPERATION}|{_MARKER}):".encode(), headers, re.MULTILINE) is not None


def _failure(key: str, error: ApiError) -> EngineError:
    """What a refusal of JetStream means to the caller."""
    if error.err_code in _WRONG_LAST:
        return Conflict(f"{key}: another write came first, or it is gone")
    if error.err_code in _UNFIT:
        return BucketUnfit(f"{key}: JetStream: {error.description}")
    if error.code == 503:
        return EngineUnavailable(f"{key}: JetStream: {error.description}")
    return EngineError(f"{key}: JetStream: {error.description} ({error.err_code})")
