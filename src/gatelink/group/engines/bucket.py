"""The keys of a group as a key-value bucket of JetStream: a stream that keeps the last message of each subject.

NATS' key-value stores are such streams (architecture decision record 8); expiry is each message's own `Nats-TTL`, and
what expires or is deleted leaves a marker for a while, so that watches hear of it (43, 48). Spoken to directly, since
the client's own `KeyValue.put` and `update` write what never expires. Nothing here knows a connection.
"""

import re
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from gatelink.errors import ConfigError
from gatelink.group.engine import Conflict, EngineError, EngineUnavailable, Entry, Revision

MARKER_TTL = 120  # s that a marker is kept; a watch that heard nothing for as long has begun again well before

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_TTL = "Nats-TTL"
_OPERATION = "KV-Operation"
_MARKER = "Nats-Marker-Reason"

_NO_STREAM, _NO_MESSAGE, _STREAM_EXISTS = 10059, 10037, 10058
_WRONG_LAST = {10071, 10164}
_JETSTREAM_OFF = {10039, 10076}
_TOO_FEW_SERVERS = 10005  # of the cluster are there, or not yet


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
    """How JetStream says no."""

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


class _Stream(msgspec.Struct):
    config: dict[str, Any] = {}
    error: ApiError | None = None


class Bucket:
    """The keys of the bucket `name`; `replicas` are made of it if it has to be made."""

    def __init__(self, name: str, replicas: int) -> None:
        self.stream = f"KV_{name}"
        self.prefix = f"$KV.{name}."
        self._replicas = replicas

    async def prepare(self, ask: Ask) -> None:
        """Makes the bucket, or checks the one that is there. Raises ConfigError, EngineUnavailable, NoResponder."""
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
        self._check(found.config)

    async def get(self, ask: Ask, key: str) -> Entry | None:
        """Read where it was written, by the stream's leader: a replica's answer may be older than one's own write."""
        found = await self._last(ask, key)
        if found is None or _is_marker(found.hdrs):
            return None
        return Entry(key, found.data, Revision(found.seq))

    async def put(self, ask: Ask, key: str, value: bytes, seconds: int) -> Revision:
        return await self._write(ask, key, value, {_TTL: str(seconds)})

    async def create(self, ask: Ask, key: str, value: bytes, seconds: int) -> Revision:
        """Over nothing, or over the marker of what was there. Raises Conflict. Ends only with its caller's deadline
        if markers come and go all the while.
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
        return msgspec.json.decode((await ask(f"$JS.API.STREAM.{verb}.{self.stream}", data)).data, type=_Stream)

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
        return Revision(written.seq)

    def _config(self) -> dict[str, Any]:
        return {
            "name": self.stream,
            "subjects": [self.prefix + ">"],
            "storage": "file",
            "num_replicas": self._replicas,
            "retention": "limits",
            "discard": "new",  # at a limit that somebody sets it says so, rather than forget a key
            "max_msgs_per_subject": 1,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": MARKER_TTL * 1_000_000_000,
            "allow_rollup_hdrs": True,  # the server's own markers roll up what was there
            "deny_delete": True,
            "allow_direct": True,
        }

    def _check(self, config: Mapping[str, Any]) -> None:
        needed = {
            "--allow-msg-ttl": bool(config.get("allow_msg_ttl")),
            f"--subject-del-markers-ttl={MARKER_TTL}s": config.get("subject_delete_marker_ttl", 0) >= 1_000_000_000,
            "--max-msgs-per-subject=1": config.get("max_msgs_per_subject") == 1,
            "--discard=new": config.get("discard") == "new",
            "--storage=file": config.get("storage") == "file",
            f"--replicas={self._replicas}": config.get("num_replicas", 1) >= self._replicas,
            f"--subjects='{self.prefix}>'": config.get("subjects") == [self.prefix + ">"],
        }
        if lacking := " ".join(option for option, is_there in needed.items() if not is_there):
            raise ConfigError(
                f"the bucket {self.stream} is there and lacks {lacking}; "
                f"give it that with `nats stream edit`, or remove it if nothing else uses it"
            )


def _is_marker(headers: bytes) -> bool:
    """Whether the headers of a stored message say that its key is gone."""
    return bool(headers) and re.search(rf"^(?:{_OPERATION}|{_MARKER}):".encode(), headers, re.MULTILINE) is not None


def _failure(key: str, error: ApiError) -> EngineError:
    """What a refusal of JetStream means to the caller."""
    if error.err_code in _WRONG_LAST:
        return Conflict(f"{key}: another write came first, or it is gone")
    if error.code == 503:
        return EngineUnavailable(f"{key}: JetStream: {error.description}")
    return EngineError(f"{key}: JetStream: {error.description} ({error.err_code})")
