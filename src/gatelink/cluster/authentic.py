"""An engine whose entries, events, requests and answers are authenticated with the cluster's derived keys.

An attacker that can write to NATS, but has no key of the cluster, can delete and delay messages and entries. It can
forge none. Anything that is not authentic counts as absent, is counted (`EngineStats.not_authentic`) and logged.

    entry               0xC1, MAC, value; in the registry an Ed25519 signature (64 bytes) before the value
    event or request    0xC1, MAC, nonce (8 bytes), unix time in microseconds (u64), data
    answer              0xC1, MAC, status (0 answered, 1 refused, 2 no handler), data

A MAC is the first 16 bytes of HMAC-SHA256. It covers the kind, the key or subject, and all bytes behind the MAC. The
MAC of an answer also covers the MAC of its request. So an entry can't be moved to another key, and an answer belongs
to one request.
"""

import hmac
import secrets
from asyncio import sleep
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

import msgspec
from cryptography.exceptions import InvalidSignature

from gatelink.cluster.engine import (
    Change,
    Conflict,
    Engine,
    Entry,
    NoHandler,
    Revision,
    Subscription,
    Watch,
)
from gatelink.cluster.engine_keys import DIRECTORY, REGISTRY, SERVERS, TOKENS, TRIES, EngineKey
from gatelink.errors import Refuse, RequestCode, RequestFailed
from gatelink.logger import Logger, RateLimitedLogger

log = Logger("gatelink.engine")
quiet = RateLimitedLogger(log)

MAX_AGE = 30.0
"""Seconds after which an event or request is refused. All servers use the engine's clock."""

MAX_REMEMBERED = 65_536
"""Events and requests of the last MAX_AGE seconds that are remembered, so that none is taken twice.

Over this number the oldest is forgotten. Then all that are as old are refused, too: at 10,000 a second, those that are
over 6 s old.
"""

_PURPOSES = {
    "servers": REGISTRY,
    "players": DIRECTORY,
    "epochs": DIRECTORY,
    "gateway": DIRECTORY,  # requests between gateways about logins
    "tokens": TOKENS,
    "user-tokens": TOKENS,
    "revoked-tokens": TOKENS,
    "revocations": TOKENS,
    "logins": TRIES,
}
"""The purpose of a key or subject, by its first word; SERVERS for others."""

_MAGIC = b"\xc1"  # no MessagePack begins so, and so no entry of a version before
_MAC = 16
_SIGNATURE = 64
_NONCE = 16  # bytes: 8 at random, and 8 of the time
_AT_ONCE = 100  # changes of a watch that are checked before other work has its turn

_ENTRY, _EVENT, _REQUEST, _ANSWER = b"entry", b"event", b"request", b"answer"
_ANSWERED, _REFUSED, _UNKNOWN = b"\0", b"\1", b"\2"

_encode_refusal = msgspec.msgpack.Encoder().encode
_decode_refusal = msgspec.msgpack.Decoder(tuple[int, str]).decode


class _Sealed(NamedTuple):
    """An authenticated event or request. mac: identifies it, as no other one has the same nonce."""

    mac: bytes
    whole: bytes


class AuthenticEngine:
    """An `Engine` on top of another one.

    keys: the first one, the newest, authenticates what this process writes. All of them are accepted: while a cluster
    changes its key, every process has both. A process that lacks a purpose's key reads nothing of that purpose, and
    gets LookupError when it writes. clock: unix seconds; by default the engine's.
    """

    def __init__(self, engine: Engine, keys: Sequence[EngineKey], clock: Callable[[], float] | None = None) -> None:
        self.stats = engine.stats
        self.when_back = engine.when_back
        self._engine = engine
        self._keys = tuple(keys)
        self._clock = clock or engine.now
        self._taken: OrderedDict[bytes, float] = OrderedDict()  # MACs of events and requests, and their times
        self._forgotten = 0.0  # the latest time of those that were forgotten before their end

    async def start(self) -> None:
        await self._engine.start()

    async def close(self) -> None:
        await self._engine.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def is_available(self) -> bool:
        return self._engine.is_available

    @property
    def trouble(self) -> str:
        return self._engine.trouble

    def now(self) -> float:
        return self._engine.now()

    @property
    def skew(self) -> float:
        return self._engine.skew

    # -- entries --

    async def get(self, key: str) -> Entry | None:
        entry = await self._engine.get(key)
        if entry is None or (value := self.open_entry(key, entry.value)) is None:
            return None
        return Entry(key, value, entry.revision)

    async def put(self, key: str, value: bytes, ttl: float) -> Revision:
        return await self._engine.put(key, self.seal_entry(key, value), ttl)

    async def create(self, key: str, value: bytes, ttl: float) -> Revision:
        sealed = self.seal_entry(key, value)
        try:
            return await self._engine.create(key, sealed, ttl)
        except Conflict:
            entry = await self._engine.get(key)
            if entry is None or self.open_entry(key, entry.value) is not None:
                raise
            # An entry that is not authentic counts as absent.
            return await self._engine.update(key, sealed, ttl, entry.revision)

    async def update(self, key: str, value: bytes, ttl: float, revision: Revision) -> Revision:
        return await self._engine.update(key, self.seal_entry(key, value), ttl, revision)

    async def delete(self, key: str, revision: Revision | None = None) -> None:
        await self._engine.delete(key, revision)

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        async with self._engine.watch(prefix) as watch:
            yield _AuthenticWatch(watch, self.open_entry)

    def seal_entry(self, key: str, value: bytes) -> bytes:
        """The authenticated form of the value of `key`. Raises LookupError without a key to make it."""
        if _purpose(key) == REGISTRY:
            sign = self._keys[0].sign
            if sign is None:
                raise LookupError(f"{key}: a login service has no key to write the registry with")
            value = sign.sign(_message(_ENTRY, key, value)) + value
        return _MAGIC + self._mac(_ENTRY, key, value) + value

    def open_entry(self, key: str, sealed: bytes) -> bytes | None:
        """The value of `key` that a server with the key wrote; None for any other."""
        value = sealed[1 + _MAC :]
        found = self._key_of(_ENTRY, key, sealed, value)
        if found is not None and _purpose(key) == REGISTRY:
            signature, value = value[:_SIGNATURE], value[_SIGNATURE:]
            try:
                found.verify.verify(signature, _message(_ENTRY, key, value))
            except InvalidSignature:
                found = None
        if found is None:
            self._not_authentic("an entry", key)
            return None
        return value

    # -- events and requests --

    async def publish(self, subject: str, data: bytes) -> None:
        await self._engine.publish(subject, self._sealed(_EVENT, subject, data).whole)

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Subscription:
        def receive(sealed: bytes) -> None:
            data = self._take(_EVENT, subject, sealed)
            if data is not None:
                handler(data)

        return await self._engine.subscribe(subject, receive)

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Subscription:
        async def answer(sealed: bytes) -> bytes:
            data = self._take(_REQUEST, subject, sealed)
            if data is None:
                raise Refuse(0, "the request is not authentic: the cluster keys differ, or it is over 30 s old")
            try:
                body = _ANSWERED + await handler(data)
            except NoHandler:
                body = _UNKNOWN
            except Refuse as refusal:
                body = _REFUSED + _encode_refusal((refusal.detail, refusal.reason))
            body = sealed[1 : 1 + _MAC] + body  # the request's MAC, which the answer's MAC covers
            return _MAGIC + self._mac(_ANSWER, subject, body) + body[_MAC:]

        return await self._engine.serve(subject, answer)

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - as the interface
        sealed = self._sealed(_REQUEST, subject, data)
        try:
            answer = await self._engine.request(subject, sealed.whole, timeout)
        except RequestFailed as error:
            if error.code is RequestCode.REFUSED:  # without a MAC: its number and reason may be forged
                raise RequestFailed(RequestCode.FAILED, reason=str(error)) from None
            raise
        body = answer[1 + _MAC :]
        if self._key_of(_ANSWER, subject, answer, sealed.mac + body) is None:
            self._not_authentic("an answer", subject)
            reason = f"{subject}: the answer is not authentic: the servers' cluster keys differ"
            raise RequestFailed(RequestCode.FAILED, reason=reason)
        if body[:1] == _REFUSED:
            raise RequestFailed(RequestCode.REFUSED, *_decode_refusal(body[1:]))
        if body[:1] == _UNKNOWN:
            raise RequestFailed(RequestCode.NO_HANDLER, reason=f"{subject}: that server has no handler of it")
        return body[1:]

    def _sealed(self, kind: bytes, subject: str, data: bytes) -> _Sealed:
        data = secrets.token_bytes(8) + int(self._clock() * 1e6).to_bytes(8, "little") + data
        mac = self._mac(kind, subject, data)
        return _Sealed(mac, _MAGIC + mac + data)

    def _take(self, kind: bytes, subject: str, sealed: bytes) -> bytes | None:
        """The data of an event or request; None unless it is authentic, fresh, and has not come before."""
        data = sealed[1 + _MAC :]
        if self._key_of(kind, subject, sealed, data) is None:
            self._not_authentic("an event" if kind == _EVENT else "a request", subject)
            return None
        now = self._clock()
        while self._taken and next(iter(self._taken.values())) < now - MAX_AGE:
            self._taken.popitem(last=False)
        mac = sealed[1 : 1 + _MAC]
        sent_at = int.from_bytes(data[8:_NONCE], "little") / 1e6
        if abs(now - sent_at) > MAX_AGE or sent_at <= self._forgotten or mac in self._taken:
            self._not_authentic("a repeated or old message", subject)
            return None
        if len(self._taken) >= MAX_REMEMBERED:
            self._forgotten = max(self._forgotten, self._taken.popitem(last=False)[1])
        self._taken[mac] = sent_at
        return data[_NONCE:]

    # -- authentication --

    def _mac(self, kind: bytes, name: str, data: bytes) -> bytes:
        key = self._keys[0].macs.get(_purpose(name))
        if key is None:
            raise LookupError(f"{name}: a login service has no key for this purpose")
        return _mac(key, kind, name, data)

    def _key_of(self, kind: bytes, name: str, sealed: bytes, data: bytes) -> EngineKey | None:
        """The key of ours that made the MAC of `sealed`; None if no key of ours did."""
        if not sealed.startswith(_MAGIC):
            return None
        mac, purpose = sealed[1 : 1 + _MAC], _purpose(name)
        for key in self._keys:
            secret = key.macs.get(purpose)
            if secret is not None and hmac.compare_digest(mac, _mac(secret, kind, name, data)):
                return key
        return None

    def _not_authentic(self, what: str, name: str) -> None:
        purpose = _purpose(name)
        self.stats.not_authentic[purpose] += 1
        quiet.error(f"{what} in the engine is ignored: it is not authentic", name=name[:100], purpose=purpose)


class _AuthenticWatch:
    """A `Watch` of the authentic entries only. Any other entry counts as gone."""

    def __init__(self, watch: Watch, open: Callable[[str, bytes], bytes | None]) -> None:
        self.entries: Mapping[str, bytes] = _AuthenticEntries(watch.entries, open)
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[Change]:
        count = 0
        async for change in self._watch:
            yield Change(change.key, None if change.value is None else self.entries.get(change.key))
            count += 1
            if count % _AT_ONCE == 0:
                await sleep(0)  # a flood of entries must not stop the loop


class _AuthenticEntries(Mapping[str, bytes]):
    """The authentic ones of a watch's entries. Each value is checked once."""

    def __init__(self, entries: Mapping[str, bytes], open: Callable[[str, bytes], bytes | None]) -> None:
        self._entries = entries
        self._open = open
        self._checked: dict[str, tuple[bytes, bytes | None]] = {}

    def __getitem__(self, key: str) -> bytes:
        sealed = self._entries[key]
        checked = self._checked.get(key)
        if checked is None or checked[0] is not sealed:
            if len(self._checked) > 2 * len(self._entries) + 64:
                self._checked = {each: old for each, old in self._checked.items() if each in self._entries}
            checked = self._checked[key] = (sealed, self._open(key, sealed))
        if checked[1] is None:
            raise KeyError(key)
        return checked[1]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._entries if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _purpose(name: str) -> str:
    return _PURPOSES.get(name.partition(".")[0], SERVERS)


def _message(kind: bytes, name: str, data: bytes) -> bytes:
    """The bytes that a MAC or signature covers: zero bytes part them, and neither kind nor name has one."""
    return b"\0".join((kind, name.encode(), data))


def _mac(key: bytes, kind: bytes, name: str, data: bytes) -> bytes:
    return hmac.digest(key, _message(kind, name, data), "sha256")[:_MAC]
