"""How long a session's login holds, and its renewal with a fresh token (docs/protocol.md, "Renewal").

A session has a `Renewal` if both sides agreed on it, and an `Expiry` if the server closes sessions whose token expires.
"""

import asyncio
import random
import secrets
import time
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import blake2b
from math import inf
from typing import Any, Protocol

from gatelink.errors import CloseCode, ConfigError, LocalError, RequestCode, RequestFailed
from gatelink.session.interfaces import Dispatcher, Owner
from gatelink.session.loop_context import LoopContext
from gatelink.session.timers import Item
from gatelink.wire import control

LEAST_INTERVAL = 5.0
"""Seconds between two renewals of one session."""

MOST_EARLY = 16
"""Renewals that are refused unchecked before the session is closed with 4005. Our client waits for each answer."""

MAX_TOKEN = 0xFFFF
"""Bytes of a token in RENEW."""

_HASH_KEY = secrets.token_bytes(32)

SPREAD = 0.1
"""The part of `warn` by which warnings come earlier at random, so that a crowd does not renew at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseExpired:
    """The rule for sessions whose token expires: the server warns ahead, and closes the session with 4015.

    warn: seconds between the warning and the end. base_clients: also close base clients, which can't renew a login.
    """

    warn: float = 60.0
    base_clients: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.warn < inf:
            raise ConfigError(f"warn is {self.warn}; give seconds above 0")


class Expiry(Item):
    """The deadline of one session's login: warns the client before it, and closes the session at it."""

    __slots__ = ("_rest", "_rule", "_session")

    def __init__(self, session: "Renewable", rule: CloseExpired) -> None:
        self._tick = 0
        self._session = session
        self._rule = rule
        self._rest = 0.0  # seconds from the next deadline to the end

    def begin(self) -> None:
        """Follow the session's `expires_at`, which replaces an earlier one. None: there is no end any more."""
        end = self._session.expires_at
        if end is None:
            self.cancel()
            return
        seconds = max(0.0, end - time.time())
        self._rest = min(seconds, self._rule.warn * (1 + random.uniform(0, SPREAD)))
        self._session.context.wheel.set(self, seconds - self._rest)

    def on_deadline(self, now: float) -> None:
        rest, self._rest = self._rest, 0.0
        if rest <= 0:
            self._session.close(CloseCode.TOKEN_EXPIRED, "the token expired")
            return
        self._session.context.wheel.set(self, rest)
        if self._session.renewal is not None:
            self._session.send_control(control.Expiring(max(1, round(rest))))

    def cancel(self) -> None:
        """Cancel the warning and the end: the session has ended, or its login has no end any more."""
        self._session.context.wheel.cancel(self)


class Renewing(Item):
    """A renewal that this side has sent, and that has no answer yet."""

    __slots__ = ("future", "token")

    def __init__(self, token: str, future: "asyncio.Future[None]") -> None:
        self._tick = 0
        self.token = token
        self.future = future

    def on_deadline(self, now: float) -> None:
        self.fail(RequestCode.TIMEOUT)

    def fail(self, code: RequestCode, reason: str = "") -> None:
        """End the wait with an error, unless it is over."""
        if not self.future.done():
            self.future.set_exception(RequestFailed(code, reason=reason))


class Due(Enum):
    """The reaction of a server to a RENEW."""

    CHECK = auto()
    """Check its token now."""
    WAIT = auto()
    """Answer when the check of its token ends: that check began before the break."""
    ACCEPTED = auto()
    """Accept: its token was accepted before the break, and the client did not get the answer."""
    REFUSED = auto()
    """Refuse: another token is being checked, or the last check was less than LEAST_INTERVAL ago."""
    CLOSE = auto()
    """Close the session: more than MOST_EARLY came too soon."""


class Renewal:
    """The renewals of one session whose two sides agreed on them. The session passes itself to each call.

    owner: checks the tokens that the session's peer shows, and gets its warnings.
    asking: the renewal that this side has sent and that has no answer yet. It stays even if its caller gave up.
    """

    __slots__ = ("_accepted", "_checked", "_early", "_is_void", "_next_at", "_owner", "asking")

    def __init__(self, owner: "Owner[Any]") -> None:
        self.asking: Renewing | None = None
        self._owner = owner
        self._checked = b""  # the hash of the token that is being checked
        self._accepted = b""  # the hash of the token that was accepted last
        self._is_void = False  # the connection broke since the last RENEW
        self._early = 0  # RENEWs refused unchecked since the last check
        self._next_at = -inf  # when the next token may be checked

    # -- the side that renews its login --

    async def ask(self, session: "Renewable", token: str, timeout: float) -> None:  # noqa: ASYNC109 - goes with the request
        """Send RENEW, and wait until the token is accepted. Raises RequestFailed; LocalError for a long token."""
        if len(token.encode("utf-8", "surrogateescape")) > MAX_TOKEN:
            raise LocalError(f"a token of {len(token)} characters; RENEW takes {MAX_TOKEN} bytes")
        if self.asking is not None:
            raise RequestFailed(RequestCode.TOO_MANY, reason="a renewal of this session has no answer yet")
        asking = self.asking = Renewing(token, session.context.loop.create_future())
        session.context.wheel.set(asking, timeout)
        try:
            session.send_control(control.Renew(token))
            await asking.future
        finally:
            session.context.wheel.cancel(asking)

    def detached(self) -> None:
        """Note that the connection broke: a RENEW from before gets no answer any more."""
        self._is_void = True
        self._next_at = -inf
        if self.asking is not None and self.asking.future.done():
            self.asking = None

    def attached(self, session: "Renewable") -> None:
        """Send RENEW again on a new connection, if the application waits for it."""
        self.detached()
        if self.asking is not None:
            session.send_control(control.Renew(self.asking.token))

    def _answered(self, session: "Renewable", record: control.Renewed) -> None:
        asking, self.asking = self.asking, None
        if asking is None:
            session.context.stats.stray_answers += 1
        elif record.result:
            asking.fail(
                RequestCode.REFUSED,
                f"the server refused the token, or checked one of this session less than {LEAST_INTERVAL:g} s ago",
            )
        else:
            session.expires_at = ends_at(record.expires_in)
            if not asking.future.done():
                asking.future.set_result(None)

    def close(self) -> None:
        """Fail the renewal that waits: the session has ended."""
        if self.asking is not None:
            self.asking.fail(RequestCode.CLOSED, "the session ended")

    # -- the side that checks the token --

    def _check(self, session: "Renewable", token: str) -> None:
        match self._begin(token, session.context.wheel.read_clock()):
            case Due.CHECK:
                self._owner.renew(session, token)
            case Due.ACCEPTED:
                self._send_answer(session, True)
            case Due.REFUSED:
                session.context.stats.renewals["too-soon"] += 1
                self._send_answer(session, False)
            case Due.CLOSE:
                session.close(CloseCode.RATE_LIMITED, "too many renewals")
            case Due.WAIT:
                pass

    def _begin(self, token: str, now: float) -> Due:
        """The reaction to a token. It is checked if no other check is under way or began in the last LEAST_INTERVAL.

        After a break, a client that got no answer shows its token again. That token is not checked twice, because a
        token may be good for only one use.
        """
        hashed = blake2b(token.encode("utf-8", "surrogateescape"), digest_size=16, key=_HASH_KEY).digest()
        is_again, self._is_void = self._is_void, False
        if is_again and hashed == self._checked:
            return Due.WAIT
        if is_again and hashed == self._accepted:
            return Due.ACCEPTED
        if self._checked or now < self._next_at:
            self._early += 1
            return Due.REFUSED if self._early <= MOST_EARLY else Due.CLOSE
        self._checked = hashed
        self._early = 0
        self._next_at = now + LEAST_INTERVAL
        return Due.CHECK

    def checked(self, session: "Renewable", accepted: bool) -> None:
        """Take the result of a check. It is sent unless the connection broke since: then the client asks again."""
        session.context.stats.renewals["accepted" if accepted else "refused"] += 1
        if accepted:
            self._accepted = self._checked
        self._checked = b""
        if not self._is_void:
            self._send_answer(session, accepted)

    def _send_answer(self, session: "Renewable", accepted: bool) -> None:
        session.send_control(control.Renewed(0 if accepted else 1, session.expires_in if accepted else 0))

    # -- what the peer sent --

    def received(self, session: "Renewable", record: control.Renew | control.Renewed | control.Expiring) -> None:
        """Take a record about the login from the peer."""
        match record:
            case control.Renew(token):
                self._check(session, token)
            case control.Renewed():
                self._answered(session, record)
            case control.Expiring(seconds):
                session.expires_at = ends_at(seconds)
                self._owner.expiring(session)
                session.handlers.expiring(session)


class Renewable(Protocol):
    """A session, as its login's renewal and end see it."""

    context: LoopContext
    handlers: "Dispatcher[Any]"
    expires_at: float | None
    renewal: Renewal | None

    @property
    def expires_in(self) -> int: ...

    def send_control(self, record: control.Control) -> None:
        """Send a control record with the next write; drop it while there is no connection."""

    def close(self, code: CloseCode, reason: str) -> None: ...


def ends_at(seconds: int) -> float | None:
    """The end of a login in unix seconds, of the seconds in a record: 0 means never."""
    return time.time() + seconds if seconds else None
