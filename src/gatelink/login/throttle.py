"""Who tries too often, waits: counted in the engine, so that several login processes are one.

Three counts stand against guessed passwords. None lets a stranger lock somebody out:

- `pair`, wrong passwords for one account from one network. The owner elsewhere has a count of their own.
- `network`, all logins of one network. An IPv6 /56 and a /48 have counts of their own, of both kinds, with 4 and 16
  times as many tries: a /64 costs nothing to whoever has a /48.
- `account`, wrong passwords for one account from anywhere: an attack from many networks. While it lasts, a network that
  the account did not log in from lately waits before each try, up to 30 s by default: *its own* wait, which no other's
  tries prolong. Networks that it did log in from do not wait.

A try is counted before the password is looked at, so that tries at the same time don't pass together. What is kept has
hashes for names and addresses, and expires.
"""

import asyncio
import math
import random
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Self
from weakref import WeakValueDictionary

import msgspec

from gatelink.auth.errors import InvalidCredential
from gatelink.auth.names import name_key
from gatelink.cluster.engine import Conflict, Engine, EngineUnavailable
from gatelink.config import networks
from gatelink.errors import GatelinkError
from gatelink.login.limits import LoginLimits, Rule
from gatelink.login.networks import networks_of
from gatelink.net.endpoints import address_key, contains

PREFIX = "logins"
MAX_CONFLICTS = 16  # writes of other processes that came first, before one gives up
KNOWN_NETWORKS = 8  # that an account is remembered to have logged in from
KNOWN_FOR = 30 * 86_400.0  # s
KNOWN_AGAIN = 86_400.0  # s after which a network is noted again
LONGEST_KEPT = 365 * 86_400.0  # s
ASKED = 120.0  # s beyond its wait that a network which was told to wait is remembered


class TooMany(GatelinkError):
    """One try too many: again in `retry_after` seconds. `limit` is the name of the rule in `LoginLimits`."""

    def __init__(self, limit: str, retry_after: float) -> None:
        self.limit = limit
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"over the limit {limit!r}; again in {self.retry_after} s")


class _Tally(msgspec.Struct, frozen=True, array_like=True):
    """How many were counted and not forgotten, as of `at`; the next is due at `due`. Unix seconds."""

    level: float = 0.0
    at: float = 0.0
    due: float = 0.0

    def level_at(self, now: float, rule: Rule) -> float:
        return max(0.0, self.level - max(0.0, now - self.at) / rule.recovery)


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """The networks that an account logged in from, the last first, as of `at`."""

    at: float
    networks: list[bytes]


_Change = Callable[[_Tally | None, float], tuple[_Tally | None, float]]
"""(what is there, now) -> (what to write, None for nothing; seconds to wait, 0 for none)"""

_encode = msgspec.msgpack.Encoder().encode
_tally = msgspec.msgpack.Decoder(_Tally).decode
_known = msgspec.msgpack.Decoder(_Known).decode


class Throttle:
    """The counts in `engine`. clock: unix seconds, those of all login processes within a second or so.

    Every method raises EngineUnavailable when it cannot count: then nobody logs in.
    """

    def __init__(self, engine: Engine, limits: LoginLimits, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._limits = limits
        self._exempt = networks(*limits.exempt)
        self._clock = clock
        # Tries of this process on one key take turns, so that only other processes' can conflict.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def login(self, user: str, address: str) -> "Attempt":
        """Counts a try to log in as `user`. Raises TooMany; then the password must not be looked at."""
        return await Attempt(self, _account(user), address).begin()

    async def visit(self, address: str) -> None:
        """Counts a login that guesses nothing (an ID token, a guest). Raises TooMany."""
        await self.count_networks("network", address)

    async def register(self, address: str) -> None:
        """Counts a new account. Raises TooMany."""
        await self.count_networks("registrations", address)

    async def registered(self, user: str, address: str) -> None:
        """Notes that `user` is at home where the account was made."""
        attempt = Attempt(self, _account(user), address)
        await attempt.look()
        await attempt.remember()

    async def guest(self, device_id: str, address: str) -> "Attempt":
        """Counts a guest's login, and a new account unless the device was seen lately. Raises TooMany."""
        attempt = Attempt(self, f"guest {device_id}", address)
        await attempt.look()
        await self.visit(address)
        if not attempt.seen:
            await self.register(address)
        return attempt

    def is_exempt(self, address: str) -> bool:
        """Whether limits per network do not hold for `address`."""
        return contains(self._exempt, address)

    async def count_networks(self, limit: str, address: str) -> None:
        """Counts one under the rule `limit` for each network of `address`. Raises TooMany."""
        if self.is_exempt(address):
            return
        for network, times in _networks(address):
            await self.count(limit, network, times=times)

    async def count(self, limit: str, *parts: str, times: int = 1) -> None:
        """Counts one under the rule `limit`, which allows so many times as much. Raises TooMany."""
        rule = self._rule(limit, times)

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            tally = tally or _Tally()
            if now < tally.due:
                return None, tally.due - now
            return counted(tally, now, rule), 0.0

        await self.change(limit, parts, change, times)

    def _rule(self, limit: str, times: int = 1) -> Rule:
        rule: Rule = getattr(self._limits, limit)
        return (
            rule
            if times == 1
            else msgspec.structs.replace(rule, free=rule.free * times, recovery=max(0.001, rule.recovery / times))
        )

    async def wait_of(self, limit: str, *parts: str) -> float:
        """Seconds that the rule `limit` makes the next one wait; nothing is counted."""
        rule: Rule = getattr(self._limits, limit)
        entry = await self._engine.get(_key(limit, *parts))
        return rule.wait(_tally(entry.value).level_at(self._clock(), rule)) if entry else 0.0

    async def note(self, limit: str, *parts: str) -> None:
        """Counts one under the rule `limit`, due or not."""
        rule: Rule = getattr(self._limits, limit)
        await self.change(limit, parts, lambda tally, now: (counted(tally or _Tally(), now, rule), 0.0))

    async def change(self, limit: str, parts: tuple[str, ...], change: _Change, times: int = 1) -> None:
        """Reads, changes and writes a tally as one step, and raises TooMany if `change` says to wait."""
        key, rule = _key(limit, *parts), self._rule(limit, times)
        async with self._turns.setdefault(key, asyncio.Lock()):
            for conflicts in range(MAX_CONFLICTS):
                now = self._clock()
                entry = await self._engine.get(key)
                tally, wait = change(_tally(entry.value) if entry else None, now)
                if tally is not None:
                    ttl = min(LONGEST_KEPT, max(tally.level * rule.recovery, tally.due - now + ASKED))
                    try:
                        if entry is None:
                            await self._engine.create(key, _encode(tally), ttl)
                        else:
                            await self._engine.update(key, _encode(tally), ttl, entry.revision)
                    except Conflict:
                        await asyncio.sleep(random.random() * 0.002 * (conflicts + 1))
                        continue
                if wait > 0:
                    raise TooMany(limit, wait)
                return
        raise EngineUnavailable(f"{MAX_CONFLICTS} writes of other processes to one tally of {limit!r} came first")

    async def known_of(self, account: str) -> _Known | None:
        entry = await self._engine.get(_key("known", account))
        return _known(entry.value) if entry else None

    async def remember(self, account: str, network: str, known: _Known | None) -> None:
        """`account` logged in from `network`. Of two at a time one may be forgotten, until its next login."""
        now, digest = self._clock(), _digest(network)
        if known and known.networks[:1] == [digest] and now - known.at < KNOWN_AGAIN:
            return
        others = [other for other in known.networks if other != digest] if known else []
        value = _encode(_Known(now, [digest, *others][:KNOWN_NETWORKS]))
        await self._engine.put(_key("known", account), value, KNOWN_FOR)

    async def forget(self, limit: str, *parts: str) -> None:
        await self._engine.delete(_key(limit, *parts))


class Attempt:
    """One try to log in: it has been counted as wrong, until it is said how it ended."""

    def __init__(self, throttle: Throttle, account: str, address: str) -> None:
        self._throttle = throttle
        self._account = account
        self._address = address
        self._network = address_key(address)
        self._wider: tuple[tuple[str, int], ...] = ()  # the networks around it that the try was counted for, too
        self._known: _Known | None = None

    @property
    def seen(self) -> bool:
        """Whether the account logged in lately, from wherever."""
        return self._known is not None

    async def look(self) -> None:
        """Asks where the account logged in from."""
        self._known = await self._throttle.known_of(self._account)

    async def begin(self) -> Self:
        """Counts the try. Raises TooMany."""
        await self.look()
        is_known = self._known is not None and _digest(self._network) in self._known.networks
        wait = await self._throttle.wait_of("account", self._account)  # in any case: work must not tell what is known
        if is_known:
            wait = 0.0
        rule = self._throttle._limits.pair

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            if tally is None and wait:
                return _Tally(0.0, now, now + wait), wait
            tally = tally or _Tally()
            if now < tally.due:
                return None, tally.due - now
            after = counted(tally, now, rule)
            return msgspec.structs.replace(after, due=max(after.due, now + wait)), 0.0

        await self._throttle.count_networks("network", self._address)
        await self._throttle.change("pair", (self._account, self._network), change)
        if not is_known:  # the owner does not wait for neighbours
            for network, times in _networks(self._address)[1:]:
                await self._throttle.count("pair", self._account, network, times=times)
                self._wider += ((network, times),)
        return self

    async def failed(self) -> None:
        """The password was wrong."""
        await self._throttle.note("account", self._account)

    async def succeeded(self) -> None:
        """The password was right: the wrong ones before it are forgiven, and the network is known from now on."""
        for network in (self._network, *(network for network, _ in self._wider)):
            await self._throttle.forget("pair", self._account, network)
        await self.remember()

    async def remember(self) -> None:
        await self._throttle.remember(self._account, self._network, self._known)

    async def undecided(self) -> None:
        """Nobody looked at the password: it counts as not tried."""

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            return tally and msgspec.structs.replace(tally, level=max(0.0, tally.level - 1), due=now), 0.0

        for network, times in ((self._network, 1), *self._wider):
            await self._throttle.change("pair", (self._account, network), change, times)


def _networks(address: str) -> tuple[tuple[str, int], ...]:
    """The networks whose tries are counted: (key, how many times the rule's), the narrowest first."""
    found = networks_of(address)
    return found if ":" in found[0][0] else found[:1]  # an IPv4 address is all that one customer has


def counted(tally: _Tally, now: float, rule: Rule) -> _Tally:
    """One more at `now`."""
    level = min(rule.most, tally.level_at(now, rule) + 1)
    return _Tally(level, now, now + rule.wait(level))


def _account(user: str) -> str:
    """The same for every way to write a name; a text that is no name stands for itself."""
    try:
        return f"name {name_key(user)}"
    except InvalidCredential:
        return f"text {user}"


def _digest(text: str, size: int = 8) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()


def _key(kind: str, *parts: str) -> str:
    digest = _digest("\0".join(parts), 18)  # 24 characters of base64, without padding
    return f"{PREFIX}.{kind}.{urlsafe_b64encode(digest).decode()}"
