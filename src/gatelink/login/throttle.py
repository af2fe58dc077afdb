"""Limits on login tries. The engine counts them, for all login processes together.

Three counts slow down the guessing of passwords. None of them lets an attacker lock out the owner of an account:

- `pair`, wrong passwords for one account from one network. An owner in another network has another count.
- `network`, all logins from one network. An attacker with an IPv6 /48 has all of its /64s. So `pair` and `network` are
  also counted for the /56 and the /48 around an IPv6 address, with 4 and 16 times as many tries.
- `account`, wrong passwords for one account from anywhere, against an attack from many networks. During such an attack,
  a network that is new to the account must wait before each try, up to 30 s by default. Each network has its own wait:
  tries from other networks do not prolong it. Networks from which the account logged in lately do not wait.

A try is counted before the password is checked, so that many tries at the same moment can't all pass. Counts are stored
under hashes of names and addresses, and expire.
"""

import asyncio
import math
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Self
from weakref import WeakValueDictionary

import msgspec

from gatelink.auth.errors import InvalidCredential
from gatelink.auth.names import name_key
from gatelink.cluster.engine import Conflict, Conflicts, Engine, write_over
from gatelink.config import networks
from gatelink.errors import GatelinkError
from gatelink.login.limits import LoginLimits, Rule
from gatelink.login.networks import networks_of
from gatelink.net.endpoints import address_key, contains

PREFIX = "logins"
KNOWN_NETWORKS = 8  # the most networks that are remembered for one account
KNOWN_FOR = 30 * 86_400.0  # s
KNOWN_AGAIN = 86_400.0  # s after which a login from the newest network is stored again, to keep it from expiring
LONGEST_KEPT = 365 * 86_400.0  # s
ASKED = 120.0  # s that a tally is kept at least after its wait is over


class TooMany(GatelinkError):
    """One try too many; try again in `retry_after` seconds. `limit` names the rule in `LoginLimits`."""

    def __init__(self, limit: str, retry_after: float) -> None:
        self.limit = limit
        self.retry_after = max(1, math.ceil(retry_after))
        super().__init__(f"over the limit {limit!r}; try again in {self.retry_after} s")


class _Tally(msgspec.Struct, frozen=True, array_like=True):
    """The count of one key. level: the tries that were not yet forgotten at the time `at`.

    due: when the next may come; 0: at any time. Times are unix seconds.
    """

    level: float = 0.0
    at: float = 0.0
    due: float = 0.0

    def level_at(self, now: float, rule: Rule) -> float:
        return max(0.0, self.level - max(0.0, now - self.at) / rule.recovery)


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """Digests of the networks from which an account logged in, the newest first. at: when this was stored."""

    at: float
    networks: list[bytes]


_Change = Callable[[_Tally | None, float], tuple[_Tally | None, float]]
"""Takes the stored tally and the time. Returns the tally to write, or None to write none, and the seconds to wait."""

_encode = msgspec.msgpack.Encoder().encode
_tally = msgspec.msgpack.Decoder(_Tally).decode
_known = msgspec.msgpack.Decoder(_Known).decode


class Throttle:
    """The counts in `engine`. clock: unix seconds, by default the engine's, which is the same for all processes.

    Every method raises EngineUnavailable if it can't count. A try that is not counted must be refused.
    """

    def __init__(self, engine: Engine, limits: LoginLimits, clock: Callable[[], float] | None = None) -> None:
        self._engine = engine
        self._rules = {
            "network": limits.network,
            "pair": limits.pair,
            "account": limits.account,
            "registrations": limits.registrations,
        }
        self._exempt = networks(*limits.exempt)
        self._clock = clock or engine.now
        # One lock for each key in use: changes by this process take turns, so only other processes cause conflicts.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def login(self, user: str, address: str) -> "Attempt":
        """Count a try to log in as `user`. Raises TooMany: the caller must not check the password then."""
        return await Attempt(self, _account(user), address).begin()

    async def visit(self, address: str) -> None:
        """Count a login that guesses nothing (an ID token, a guest). Raises TooMany."""
        await self.count_networks("network", address)

    async def register(self, address: str) -> None:
        """Count a new account. Raises TooMany."""
        await self.count_networks("registrations", address)

    async def registered(self, user: str, address: str) -> None:
        """Remember the network from which the account of `user` was created."""
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
        """Seconds to wait before a try under the rule `limit`. Counts nothing."""
        rule = self.rule(limit)
        entry = await self._engine.get(_key(limit, *parts))
        return rule.wait(_tally(entry.value).level_at(self._clock(), rule)) if entry else 0.0

    async def note(self, limit: str, *parts: str) -> None:
        """Count one under the rule `limit`, even if none is due yet. Never raises TooMany."""
        rule = self.rule(limit)
        await self.change(limit, parts, lambda tally, now: (counted(tally or _Tally(), now, rule), 0.0))

    async def change(self, limit: str, parts: tuple[str, ...], change: _Change, times: int = 1) -> None:
        """Read, change and write a tally atomically. Raises TooMany if `change` returns a wait."""
        key, rule = _key(limit, *parts), self.rule(limit, times)
        async with self._turns.setdefault(key, asyncio.Lock()):
            conflicts = Conflicts(key)
            while True:
                now = self._clock()
                entry = await self._engine.get(key)
                tally, wait = change(_tally(entry.value) if entry else None, now)
                if tally is not None:
                    ttl = min(LONGEST_KEPT, max(tally.level * rule.recovery, tally.due - now + ASKED, ASKED))
                    try:
                        await write_over(self._engine, entry, key, _encode(tally), ttl)
                    except Conflict:
                        await conflicts.another()
                        continue
                if wait > 0:
                    raise TooMany(limit, wait)
                return

    async def known_of(self, account: str) -> _Known | None:
        entry = await self._engine.get(_key("known", account))
        return _known(entry.value) if entry else None

    async def remember(self, account: str, network: str, known: _Known | None) -> None:
        """Remember that `account` logged in from `network`. known: what was stored before.

        Of two logins at the same time, one may overwrite the other's network, which its next login stores again.
        """
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
        self._wider: tuple[tuple[str, int], ...] = ()  # the wider networks that the try was counted for, and factors
        self._known: _Known | None = None

    @property
    def seen(self) -> bool:
        """Whether the account logged in lately, from whatever network."""
        return self._known is not None

    async def look(self) -> None:
        """Load the networks from which the account logged in."""
        self._known = await self._throttle.known_of(self._account)

    async def begin(self) -> Self:
        """Count the try. Raises TooMany."""
        await self.look()
        is_known = self._known is not None and _digest(self._network) in self._known.networks
        wait = await self._throttle.wait_of("account", self._account)  # also if known, so that timing does not tell
        if is_known:
            wait = 0.0
        rule = self._throttle.rule("pair")

        def change(tally: _Tally | None, now: float) -> tuple[_Tally | None, float]:
            if tally is None and wait:  # the network's first try during an attack: refused, and its wait starts
                return _Tally(0.0, now, now + wait), wait
            tally = tally or _Tally()
            if now < tally.due:
                return None, tally.due - now
            return counted(tally, now, rule, wait), 0.0

        await self._throttle.count_networks("network", self._address)
        await self._throttle.change("pair", (self._account, self._network), change)
        if not is_known:  # tries of neighbours must not delay the owner
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
            return tally and msgspec.structs.replace(tally, level=max(0.0, tally.level - 1), due=0.0), 0.0

        for network, times in ((self._network, 1), *self._wider):
            await self._throttle.change("pair", (self._account, network), change, times)


def _networks(address: str) -> tuple[tuple[str, int], ...]:
    """The networks to count a try under, the narrowest first, each with the factor for the rule's tries."""
    found = networks_of(address)
    return found if ":" in found[0][0] else found[:1]  # no IPv4 /24: unlike an IPv6 /48, it belongs to many customers


def counted(tally: _Tally, now: float, rule: Rule, wait: float = 0.0) -> _Tally:
    """`tally` with one more try at `now`. wait: seconds that the next try waits at least."""
    level = min(rule.most, tally.level_at(now, rule) + 1)
    wait = max(wait, rule.wait(level))
    # Without a wait the next may come at once, also at a process whose clock is a little behind this one's.
    return _Tally(level, now, now + wait if wait else 0.0)


def _account(user: str) -> str:
    """The same text for all spellings of a user name. A text that is no valid name is kept as it is."""
    try:
        return f"name {name_key(user)}"
    except InvalidCredential:
        return f"text {user}"


def _digest(text: str, size: int = 8) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()


def _key(kind: str, *parts: str) -> str:
    digest = _digest("\0".join(parts), 18)  # 24 characters of base64, without padding
    return f"{PREFIX}.{kind}.{urlsafe_b64encode(digest).decode()}"
