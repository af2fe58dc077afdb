"""Limits on login tries. The engine counts them, for all login processes together.

Three counts slow down the guessing of passwords. None of them lets an attacker lock out the owner of an account:

- `pair`, wrong passwords for one account from one network. An owner in another network has another count.
- `network`, all logins of one network. An IPv6 /56 and a /48 have both kinds of counts too, with 4 and 16 times as many
  tries: an attacker with a /48 has its /64s for free.
- `account`, wrong passwords for one account from anywhere: an attack from many networks. During an attack, a network
  that the account did not log in from lately waits before each try, up to 30 s by default. This wait is its own: tries
  of other networks do not prolong it. Networks that the account did log in from do not wait.

A try is counted before the password is checked, so that simultaneous tries don't pass together. Stored counts have
hashes for names and addresses, and expire.
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
MAX_CONFLICTS = 16  # writes of other processes that came first, until the try fails
KNOWN_NETWORKS = 8  # networks that an account logged in from, remembered for each account
KNOWN_FOR = 30 * 86_400.0  # s
KNOWN_AGAIN = 86_400.0  # s after which a network is stored again
LONGEST_KEPT = 365 * 86_400.0  # s
ASKED = 120.0  # s beyond its wait that a waiting network is remembered


class TooMany(GatelinkError):
    """One try too many; try again in `retry_after` seconds. `limit` names the rule in `LoginLimits`."""

    def __init__(self, limit: str, retry_after: float) -> None:
        self.limit = limit
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"over the limit {limit!r}; try again in {self.retry_after} s")


class _Tally(msgspec.Struct, frozen=True, array_like=True):
    """How many tries were counted and not forgotten, as of `at`; the next is due at `due`. Unix seconds."""

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
"""(the stored tally, now) -> (the tally to write, None for none; seconds to wait, 0 for none)"""

_encode = msgspec.msgpack.Encoder().encode
_tally = msgspec.msgpack.Decoder(_Tally).decode
_known = msgspec.msgpack.Decoder(_Known).decode


class Throttle:
    """The counts in `engine`. clock: unix seconds, those of all login processes within a second or so.

    Every method raises EngineUnavailable when it can't count: a try that is not counted must not pass.
    """

    def __init__(self, engine: Engine, limits: LoginLimits, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._rules = {
            "network": limits.network,
            "pair": limits.pair,
            "account": limits.account,
            "registrations": limits.registrations,
        }
        self._exempt = networks(*limits.exempt)
        self._clock = clock
        # Tries of this process on one key take turns, so that only those of other processes can conflict.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def login(self, user: str, address: str) -> "Attempt":
        """Count a try to log in as `user`. Raises TooMany; then the password must not be checked."""
        return await Attempt(self, _account(user), address).begin()

    async def visit(self, address: str) -> None:
        """Count a login that guesses nothing (an ID token, a guest). Raises TooMany."""
        await self.count_networks("network", address)

    async def register(self, address: str) -> None:
        """Count a new account. Raises TooMany."""
        await self.count_networks("registrations", address)

    async def registered(self, user: str, address: str) -> None:
        """Remember the network where the account of `user` was made."""
        attempt = Attempt(self, _account(user), address)
        await attempt.look()
        await attempt.remember()

    async def guest(self, device_id: str, address: str) -> "Attempt":
        """Count a guest's login, and a new account unless the device was seen lately. Raises TooMany."""
        attempt = Attempt(self, f"guest {device_id}", address)
        await attempt.look()
        await self.visit(address)
        if not attempt.seen:
            await self.register(address)
        return attempt

    def is_exempt(self, address: str) -> bool:
        """Whether `address` is exempt from the limits per network."""
        return contains(self._exempt, address)

    async def count_networks(self, limit: str, address: str) -> None:
        """Count one under the rule `limit` for each network of `address`. Raises TooMany."""
        if self.is_exempt(address):
            return
        for network, times in _networks(address):
            await self.count(limit, network, times=times)

    async def count(self, limit: str, *parts: str, times: int = 1) -> None:
        """Count one under the rule `limit`, with `times` as many tries. Raises TooMany."""
        rule = self.rule(limit, times)

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            tally = tally or _Tally()
            if now < tally.due:
                return None, tally.due - now
            return counted(tally, now, rule), 0.0

        await self.change(limit, parts, change, times)

    def rule(self, limit: str, times: int = 1) -> Rule:
        """The rule named `limit`, with `times` as many tries."""
        rule = self._rules[limit]
        if times == 1:
            return rule
        return msgspec.structs.replace(rule, free=rule.free * times, recovery=max(0.001, rule.recovery / times))

    async def wait_of(self, limit: str, *parts: str) -> float:
        """Seconds that the next try waits under the rule `limit`; nothing is counted."""
        rule = self.rule(limit)
        entry = await self._engine.get(_key(limit, *parts))
        return rule.wait(_tally(entry.value).level_at(self._clock(), rule)) if entry else 0.0

    async def note(self, limit: str, *parts: str) -> None:
        """Count one under the rule `limit`, due or not."""
        rule = self.rule(limit)
        await self.change(limit, parts, lambda tally, now: (counted(tally or _Tally(), now, rule), 0.0))

    async def change(self, limit: str, parts: tuple[str, ...], change: _Change, times: int = 1) -> None:
        """Read, change and write a tally in one step. Raises TooMany if `change` gives a wait."""
        key, rule = _key(limit, *parts), self.rule(limit, times)
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
        raise EngineUnavailable(
            f"{MAX_CONFLICTS} writes of other processes to one tally of {limit!r} came first; try again"
        )

    async def known_of(self, account: str) -> _Known | None:
        entry = await self._engine.get(_key("known", account))
        return _known(entry.value) if entry else None

    async def remember(self, account: str, network: str, known: _Known | None) -> None:
        """Remember that `account` logged in from `network`. Of two at a time one may be lost until its next login."""
        now, digest = self._clock(), _digest(network)
        if known and known.networks[:1] == [digest] and now - known.at < KNOWN_AGAIN:
            return
        others = [other for other in known.networks if other != digest] if known else []
        value = _encode(_Known(now, [digest, *others][:KNOWN_NETWORKS]))
        await self._engine.put(_key("known", account), value, KNOWN_FOR)

    async def forget(self, limit: str, *parts: str) -> None:
        await self._engine.delete(_key(limit, *parts))


class Attempt:
    """One try to log in. It counts as wrong until `succeeded` or `undecided` is called."""

    def __init__(self, throttle: Throttle, account: str, address: str) -> None:
        self._throttle = throttle
        self._account = account
        self._address = address
        self._network = address_key(address)
        self._wider: tuple[tuple[str, int], ...] = ()  # the networks around it, if the try was counted for them
        self._known: _Known | None = None

    @property
    def seen(self) -> bool:
        """Whether the account logged in lately, from any network."""
        return self._known is not None

    async def look(self) -> None:
        """Load the networks that the account logged in from."""
        self._known = await self._throttle.known_of(self._account)

    async def begin(self) -> Self:
        """Count the try. Raises TooMany."""
        await self.look()
        is_known = self._known is not None and _digest(self._network) in self._known.networks
        wait = await self._throttle.wait_of("account", self._account)  # always, so that the time shows nothing
        if is_known:
            wait = 0.0
        rule = self._throttle.rule("pair")

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
        if not is_known:  # the owner does not wait for tries of neighbours
            for network, times in _networks(self._address)[1:]:
                await self._throttle.count("pair", self._account, network, times=times)
                self._wider += ((network, times),)
        return self

    async def failed(self) -> None:
        """The password was wrong."""
        await self._throttle.note("account", self._account)

    async def succeeded(self) -> None:
        """The password was right: forget the wrong ones before it, and remember the network."""
        for network in (self._network, *(network for network, _ in self._wider)):
            await self._throttle.forget("pair", self._account, network)
        await self.remember()

    async def remember(self) -> None:
        await self._throttle.remember(self._account, self._network, self._known)

    async def undecided(self) -> None:
        """The password was not checked: take the try back."""

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            return tally and msgspec.structs.replace(tally, level=max(0.0, tally.level - 1), due=now), 0.0

        for network, times in ((self._network, 1), *self._wider):
            await self._throttle.change("pair", (self._account, network), change, times)


def _networks(address: str) -> tuple[tuple[str, int], ...]:
    """The networks whose tries are counted, the narrowest first: (key, how many times the rule's tries)."""
    found = networks_of(address)
    return found if ":" in found[0][0] else found[:1]  # a customer has a single IPv4 address


def counted(tally: _Tally, now: float, rule: Rule) -> _Tally:
    """One more at `now`."""
    level = min(rule.most, tally.level_at(now, rule) + 1)
    return _Tally(level, now, now + rule.wait(level))


def _account(user: str) -> str:
    """One text for every spelling of a user name; a text that is no name stands for itself."""
    try:
        return f"name {name_key(user)}"
    except InvalidCredential:
        return f"text {user}"


def _digest(text: str, size: int = 8) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()


def _key(kind: str, *parts: str) -> str:
    digest = _digest("\0".join(parts), 18)  # 24 characters of base64, without padding
    return f"{PREFIX}.{kind}.{urlsafe_b64encode(digest).decode()}"
