"""All sessions of one server, the newest login of each user, and the messages that wait for users that come back.

`claim` and `install` are the only way in. The key of a session is `(uid, slot)`. Its epoch says which login is the
newer one, and a newer login always wins (docs/protocol.md, "Newer logins win").
"""

import asyncio
import hmac
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from hashlib import sha256
from typing import Any

from gatelink.errors import CloseCode, LocalError, SessionClosed, VerifyError
from gatelink.logger import Logger
from gatelink.session.groups import Member
from gatelink.session.interfaces import LoginArbiter
from gatelink.session.loop_context import LoopContext
from gatelink.session.outbox import Full, Outbox
from gatelink.session.ranking import Ranking, rank_by_size
from gatelink.session.session import HUNG_UP, Session
from gatelink.session.states import SessionState
from gatelink.session.straight_path import send_to_all
from gatelink.session.timers import Call, Item
from gatelink.wire.base import DUPLICATE_LOGIN
from gatelink.wire.control import control_frame
from gatelink.wire.frames import encode_frame

log = Logger("gatelink.sessions")

Key = tuple[int, int]
"""(uid, slot)"""

SLOTS = range(256)
"""All slots that the wire has room for; a server takes the first `limits.max_slots` of them."""

DUPLICATE_LOGIN_FRAME = encode_frame(DUPLICATE_LOGIN, b"")


class Duplicate(Enum):
    """The policy for a login while the same (uid, slot) has a session."""

    NEWER_WINS = "newer-wins"
    """The older session gets UserDuplicateLoginNotify and closes with 4003."""
    REFUSE_NEW = "refuse-new"
    """The new login fails as long as the older session has a connection."""


class Backlog(Item):
    """The queued and unsent messages of a base session that broke. They wait for the client's next login."""

    __slots__ = ("_forget", "bytes", "epoch", "frames", "key", "proof")

    def __init__(
        self, key: Key, epoch: int, frames: list[bytes], forget: "Callable[[Backlog], None]", proof: bytes
    ) -> None:
        self._tick = 0
        self._forget = forget
        self.key = key
        self.epoch = epoch
        self.frames = frames
        self.proof = proof  # of the token that the session was verified with
        self.bytes = sum(map(len, frames))

    def on_deadline(self, now: float) -> None:
        self._forget(self)


class SessionManager:
    """The sessions of one server.

    clock: unix seconds, for epochs. arbiter: says which login is the newest where several servers share their users;
    None: this manager decides. address_key: the key under which a host is counted; None: each of its users counts
    alone. on_kick: called with each session that was kicked. on_kick_of_user: called with the uid, slot and reason of
    `kick`; it ends the sessions. on_renew: called with a session and its fresh token.
    """

    accepting = True

    def __init__(
        self,
        context: LoopContext,
        duplicate: Duplicate = Duplicate.NEWER_WINS,
        clock: Callable[[], float] = time.time,
        address_key: Callable[[str], str | None] = lambda host: host,
    ) -> None:
        self._context = context
        self._duplicate = duplicate
        self._clock = clock
        self._last_epoch = 0
        self.arbiter: LoginArbiter | None = None
        self.proof_keys: tuple[bytes, ...] = (secrets.token_bytes(32),)
        """The keys of the hashes of tokens, the newest first; shared by servers that share their users."""
        self.on_kick: Callable[[Session], None] | None = None
        self.on_kick_of_user: Callable[[int, int | None, str], object] | None = None
        self.on_renew: Callable[[Session, str], None] | None = None
        self._claiming: Counter[Key] = Counter()  # logins that are waiting for their epoch
        self._logins: dict[Key, list[int]] = {}  # the epochs of the logins that have theirs, and are under way
        self._newest: dict[Key, int] = {}  # of those keys: the highest epoch that was claimed, here or elsewhere
        self._is_ending_a_user = False  # the sessions that end now are ended by uid
        self._fetched: dict[tuple[int, int, int], list[bytes]] = {}  # from other gateways, by key and epoch
        self._sessions: dict[Key, Session] = {}
        self._closing: set[Session] = set()  # ended, and what was queued still on its way
        self._tickets: dict[bytes, Session] = {}
        self._address_key = address_key
        self._detached: Ranking[Session] = Ranking(address_key)
        self._weighing = Call(self._weigh_detached)
        self._backlogs: dict[Key, Backlog] = {}
        self._backlog_counts: Ranking[Backlog] = Ranking(address_key)
        self._backlog_bytes: Ranking[Backlog] = Ranking(address_key)

    # -- the open sessions --

    def __len__(self) -> int:
        return len(self._sessions)

    def __bool__(self) -> bool:
        return True  # a manager without sessions is still one

    def __iter__(self) -> Iterator[Session]:
        """The sessions of this moment; they may be closed, and others come, while you iterate."""
        return iter(list(self._sessions.values()))

    def __contains__(self, session: object) -> bool:
        return isinstance(session, Session) and self._sessions.get((session.uid, session.slot)) is session

    def outboxes(self) -> list[Outbox]:
        """The outboxes of all sessions."""
        return [session.outbox for session in self._sessions.values()]

    def get(self, uid: int, slot: int = 0) -> Session | None:
        """The open session of a user's device, if there is one."""
        return self._sessions.get((uid, slot))

    def of(self, uid: int) -> list[Session]:
        """The open sessions of a user, by slot; also those that wait for their client to resume."""
        sessions, slots = self._sessions, range(self._context.limits.max_slots)
        return [session for slot in slots if (session := sessions.get((uid, slot))) is not None]

    def at(self, address: str) -> list[Session]:
        """The open sessions from one host; looks at all of them."""
        return [session for session in self._sessions.values() if session.address == address]

    # -- the end of a user's sessions --

    def kick(self, uid: int, slot: int | None = None, reason: str = "") -> int:
        """End a user's sessions with 4009 kicked, or only the one of a slot. Returns how many sessions were here.

        With them end their tickets, and what waits for the user's next login. Logins that are being checked are
        refused. Without a slot, the user's tokens end too, if the server's `Tokens` can do that. A gateway also has the
        other gateways end the user's sessions. A login after the kick is allowed: to ban a user, refuse the token.
        """
        found = [session for session in self.of(uid) if slot in (None, session.slot)]
        if self.on_kick_of_user is not None:
            self.on_kick_of_user(uid, slot, reason)
        return len(found)

    def end(
        self, uid: int, slot: int | None, code: CloseCode, reason: str, verified_until: float | None
    ) -> list[Session]:
        """End a user's sessions here, or the one of a slot, and what waits for the user; `on_kick` is not called.

        verified_until: unix seconds; a session verified later stays. None: all end. Returns the ended sessions.
        """
        ended = [
            session
            for session in self.of(uid)
            if slot in (None, session.slot) and (verified_until is None or session.verified_at <= verified_until)
        ]
        self._end_all(ended, code, reason)
        if verified_until is None:
            for each in range(self._context.limits.max_slots) if slot is None else (slot,):
                if (backlog := self._backlogs.get((uid, each))) is not None:
                    self._expire(backlog)
        return ended

    def end_opened_with(self, uid: int, digest: bytes, code: CloseCode, reason: str) -> list[Session]:
        """End the sessions of a user that were opened with the token of this SHA-256, and return them."""
        proofs = self._proofs_of_digest(digest)
        ended = [session for session in self.of(uid) if _is_same(session.proof, proofs)]
        self._end_all(ended, code, reason)
        return ended

    def _end_all(self, sessions: list[Session], code: CloseCode, reason: str) -> None:
        before, self._is_ending_a_user = self._is_ending_a_user, True
        try:
            for session in sessions:
                session.close(code, reason)
        finally:
            self._is_ending_a_user = before

    # -- one message, to one by its uid or to many --

    async def push(self, uid: int, message: Any, slot: int = 0, *, key: int = 0, full: Full = Full.CLOSE) -> bool:
        """Send `message` to a user's device; return whether it is here. Async, as it is where there are many gateways.

        Raises what encoding raises.
        """
        session = self._sessions.get((uid, slot))
        if session is None:
            self._context.encoder(type(message)).frame(message)  # a wrong message raises, also with no session here
            return False
        try:
            session.send(message, key=key, full=full)
        except SessionClosed:
            return False
        return True

    def broadcast(
        self,
        message: Any,
        to: Iterable[Member] | None = None,
        *,
        key: int = 0,
        full: Full = Full.CLOSE,
    ) -> int:
        """Send `message`, encoded once, to the sessions of `to` (None: all). Returns how many took it.

        Sessions that have ended are passed over. Raises what encoding raises.
        """
        encoder = self._context.encoder(type(message))
        frame = encoder.frame(message)
        sent = send_to_all(self if to is None else to, [frame], key, full)
        encoder.traffic.messages += sent
        encoder.traffic.bytes += sent * len(frame)
        return sent

    # -- logging in --

    def proofs_of(self, token: bytes) -> tuple[bytes, ...]:
        """The hashes of a token under each of `proof_keys`. They are kept to recognise the token, which is not kept."""
        return self._proofs_of_digest(sha256(token).digest())

    def _proofs_of_digest(self, digest: bytes) -> tuple[bytes, ...]:
        return tuple(hmac.digest(key, digest, "sha256") for key in self.proof_keys)

    async def claim(self, uid: int, slot: int = 0, proofs: tuple[bytes, ...] = ()) -> int:
        """Make the login of a verified user the newest of `(uid, slot)`, and return its epoch. Call `install` next.

        proofs: of the token that was shown.
        Raises VerifyError if the user is here and the policy is to refuse the new login. A detached session is not
        here: a client that lost its ticket, in a crash say, must not be locked out for its window.
        """
        older = self._sessions.get((uid, slot))
        if self._duplicate is Duplicate.REFUSE_NEW and older is not None and older.state is SessionState.OPEN:
            raise VerifyError(f"uid {uid} slot {slot} is logged in, and newer logins are refused")
        key = (uid, slot)
        if self.arbiter is None:
            self._last_epoch = epoch = max(self._last_epoch + 1, int(self._clock() * 1_000_000))
            self._under_way(key, epoch)
            return epoch
        self._claiming[key] += 1  # from now on `supersede` is for this login, too
        try:
            epoch, frames = await self.arbiter.claim(uid, slot, *proofs)
            self._under_way(key, epoch)
            if frames is not None:
                self._fetched[uid, slot, epoch] = frames
        finally:
            self._claiming[key] -= 1
            if not self._claiming[key]:
                del self._claiming[key]
            self._forget_newest(key)
        return epoch

    def _under_way(self, key: Key, epoch: int) -> None:
        self._logins.setdefault(key, []).append(epoch)
        self._newest[key] = max(epoch, self._newest.get(key, 0))

    def _forget_newest(self, key: Key) -> None:
        """Forget the newest epoch of `key` if no login of it is under way."""
        if key not in self._logins and key not in self._claiming:
            self._newest.pop(key, None)

    def install(self, session: Session) -> list[bytes] | None:
        """Make `session` the current one of its user, end an older one, and return the frames that waited for it.

        Returns None if the login is new: there is no older session, or it was verified with another token. Then the
        queue of an older session is still sent to its connection, or dropped if it has none.

        Raises VerifyError if a newer login has been claimed meanwhile.
        """
        key = (session.uid, session.slot)
        older = self._sessions.get(key)
        claimed = self._newest.get(key, session.epoch)
        if claimed > session.epoch or (older is not None and older.epoch > session.epoch):
            raise VerifyError(f"uid {session.uid} slot {session.slot}: a newer login came first")
        frames = self._take_over(key, older, (session.proof,) if session.proof else ())
        self._sessions[key] = session
        session.user = self._context.users.join(session.uid, session)
        fetched = self._fetched.pop((*key, session.epoch), None)
        if frames is None:
            frames = fetched
        self.release(*key, session.epoch)
        return frames

    def _take_over(self, key: Key, older: Session | None, proofs: tuple[bytes, ...]) -> list[bytes] | None:
        """End the older session of `key`. Returns what it leaves to a login that has shown a token with `proofs`."""
        frames: list[bytes] | None = None
        if older is not None:
            why, notice = "a newer login of the same user", self._context.in_form(DUPLICATE_LOGIN_FRAME)
            if _leaves_its_queue(older) and _is_same(older.proof, proofs):
                frames = older.replace(CloseCode.REPLACED, why, farewell=notice)
            else:
                older.close(CloseCode.REPLACED, why, farewell=notice)
        backlog = self._backlogs.get(key)
        if backlog is not None:
            if not backlog.proof or not proofs or _is_same(backlog.proof, proofs):
                self._take_out(backlog)
                frames = backlog.frames
            else:
                self._expire(backlog)
        return frames

    def release(self, uid: int, slot: int, epoch: int) -> None:
        """Give up a claim; do nothing if `install` followed it."""
        key = (uid, slot)
        logins = self._logins.get(key)
        if logins is not None and epoch in logins:
            logins.remove(epoch)
            if not logins:
                del self._logins[key]
                self._forget_newest(key)
        self._context.stats.backlogs_dropped += len(self._fetched.pop((uid, slot, epoch), ()))

    def supersede(
        self, uid: int, slot: int, epoch: int, max_bytes: int, proofs: tuple[bytes, ...] = ()
    ) -> list[bytes] | None:
        """Another server has the newest login, of `epoch`: end older sessions here, and refuse older logins.

        proofs: of the token that was shown there. Returns the frames that waited here for the user, or [] if they are
        more than `max_bytes`; None if the login is a new one, as `install` says it.
        """
        key = (uid, slot)
        if key in self._logins or key in self._claiming:
            self._newest[key] = max(epoch, self._newest.get(key, 0))
        older = self._sessions.get(key)
        if older is not None and older.epoch >= epoch:
            return None
        backlog = self._backlogs.get(key)
        if backlog is not None and backlog.epoch > epoch:
            return None
        frames = self._take_over(key, older, proofs)
        if frames is not None and sum(map(len, frames)) > max_bytes:
            self._context.stats.backlogs_dropped += len(frames)
            return []
        return frames

    def close_older(self, uid: int, slot: int, epoch: int) -> None:
        """Another server has the newest login, of `epoch`: close an older session here, and refuse older logins.

        Unlike `supersede` it leaves the messages that wait for the user.
        """
        key = (uid, slot)
        if key in self._logins or key in self._claiming:
            self._newest[key] = max(epoch, self._newest.get(key, 0))
        session = self._sessions.get(key)
        if session is not None and session.epoch < epoch:
            farewell = self._context.in_form(DUPLICATE_LOGIN_FRAME)
            session.close(CloseCode.REPLACED, "a newer login of the same user", farewell=farewell)

    # -- the end (session.Owner) --

    def detached(self, session: Session, code: CloseCode) -> bool:
        """Keep a session that can be resumed. Of any other, keep the queued messages for the user's next login."""
        if session.ticket is not None:
            if not len(self._detached):
                self._context.wheel.set(self._weighing, 1.0)
            self._detached.add(session, session.uid, session.address)
            if len(self._detached) > self._context.limits.max_detached:
                largest = self._detached.largest()
                if largest is session:
                    return False
                self._end_detached(largest)
            return True
        self._remember(session, session.take_unsent())
        return False

    def renew(self, session: Session, token: str) -> None:
        """The peer shows a fresh token for its login."""
        if self.on_renew is None:
            session.answer_renewal(False)
        else:
            self.on_renew(session, token)

    def expiring(self, session: Session) -> None:
        """Never called: a client warns no server."""

    def closed(self, session: Session) -> None:
        """Remove a session from the tables. Its queued messages may still be on their way."""
        code = session.close_code or CloseCode.NORMAL
        by_peer = session.closed_by_peer
        if session in self:
            del self._sessions[session.uid, session.slot]
        is_kick = code is CloseCode.KICKED and not by_peer and not self._is_ending_a_user
        if self.on_kick is not None and is_kick:
            self.on_kick(session)
        if self.arbiter is not None:
            keep = self._context.limits.backlog_window if (session.uid, session.slot) in self._backlogs else 0.0
            self.arbiter.ended(session.uid, session.slot, session.epoch, keep)
        self._closing.add(session)
        self._detached.discard(session)
        if session.ticket is not None:
            self._tickets.pop(session.ticket.session_id, None)
        if self._context.between_servers:
            log.debug("server closed", server=session.uid, code=code.label, reason=session.close_reason)
            return
        log.info(
            "closed",
            uid=session.uid,
            address=session.address,
            code=code.label,
            reason=session.close_reason,
            by="peer" if by_peer or session.close_reason == HUNG_UP else "here",
        )

    def released(self, session: Session) -> None:
        """Nothing of the session is left."""
        self._closing.discard(session)

    async def close(self, code: CloseCode, reason: str, deadline: float) -> None:
        """Close every session and wait until their queued messages are delivered; abort the rest at `deadline`.

        Clients that speak the extension come back spread over limits.reconnect_within, not all at once.
        """
        for session in self:
            session.go_away(self._context.limits.reconnect_within)
            session.close(code, reason)
        for backlog in list(self._backlogs.values()):
            self._expire(backlog)
        waiting = [self._context.loop.create_task(session.wait_closed()) for session in self._closing]
        if waiting:
            await asyncio.wait(waiting, timeout=max(0.0, deadline - self._context.wheel.clock()))
        for session in list(self._closing):
            session.abort()
        if waiting:
            await asyncio.wait(waiting)

    # -- resume --

    def issue_ticket(self, session: Session, address: str = "") -> bytes:
        """Make `session` resumable, at `address` (empty: where it came in): the frame that tells its peer."""
        if session.extension is None:
            raise LocalError("a session whose peer does not speak the extension can't be resumed")
        ticket = session.extension.issue_ticket(address)
        self._tickets[ticket.session_id] = session
        return control_frame(ticket)

    def by_ticket(self, session_id: bytes) -> Session | None:
        """The open or detached session that a ticket names."""
        return self._tickets.get(session_id)

    def resumed(self, session: Session) -> None:
        """`session` has a connection again."""
        self._detached.discard(session)

    def _weigh_detached(self) -> None:
        """End detached sessions of the largest users while all hold too much. Runs once a second."""
        most = self._context.limits.max_detached_bytes
        if sum(session.held_bytes for session in self._detached) > most:
            ranking = rank_by_size(((each, each.held_bytes) for each in self._detached), self._address_key)
            while ranking.total > most:
                largest = ranking.largest()
                ranking.discard(largest)
                self._end_detached(largest)
        if len(self._detached):
            self._context.wheel.set(self._weighing, 1.0)

    def _end_detached(self, session: Session) -> None:
        session.close(CloseCode.GOING_AWAY, "too many sessions are detached, and this user has most")

    # -- the backlog window --

    def _remember(self, session: Session, frames: list[bytes]) -> None:
        limits = self._context.limits
        key, host = (session.uid, session.slot), session.address
        backlog = Backlog(key, session.epoch, frames, self._expire, session.proof)
        if backlog.bytes > limits.max_backlog_bytes:  # this backlog would not fit even alone
            self._context.stats.backlogs_dropped += len(frames)
            backlog = Backlog(key, session.epoch, [], self._expire, session.proof)
        self._backlogs[key] = backlog
        self._backlog_counts.add(backlog, session.uid, host)
        self._backlog_bytes.add(backlog, session.uid, host, backlog.bytes)
        self._context.wheel.set(backlog, limits.backlog_window)
        while len(self._backlogs) > limits.max_backlogs:
            self._expire(self._backlog_counts.largest())
        while self._backlog_bytes.total > limits.max_backlog_bytes:
            self._expire(self._backlog_bytes.largest())

    def _take_out(self, backlog: Backlog) -> None:
        del self._backlogs[backlog.key]
        self._backlog_counts.discard(backlog)
        self._backlog_bytes.discard(backlog)
        self._context.wheel.cancel(backlog)

    def _expire(self, backlog: Backlog) -> None:
        self._take_out(backlog)
        self._context.stats.backlogs_dropped += len(backlog.frames)


def _leaves_its_queue(session: Session) -> bool:
    """Whether the next login may get the queued messages. Those of a session with a ticket go to no login."""
    return session.ticket is None


def _is_same(proof: bytes, proofs: tuple[bytes, ...]) -> bool:
    """Whether `proof` is one of `proofs`, so that both are of one token. Compares in constant time."""
    return bool(proof) and any([hmac.compare_digest(proof, each) for each in proofs])
