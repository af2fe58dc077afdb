"""Kicks of users in a cluster: how a gateway carries them out, and how any process asks for them.

A request to each gateway would not be enough: a gateway that is frozen, or has lost the engine, would miss it. So a
server writes a record of the kick into the engine, and each gateway watches the records. Then the server asks the
gateways which sessions they ended. A record lives for an hour, and a gateway that is back carries it out. Its key is
`kicks.<uid>.all`, or `kicks.<uid>.<slot>`.

The server also sends the kick to all gateways over links, for a time without the engine. Each gateway keeps such a kick
until it sees the record.
"""

import asyncio
from contextlib import suppress
from functools import partial

import msgspec

from gatelink import tasks
from gatelink.cluster.directory import places_of
from gatelink.cluster.engine import (
    Conflict,
    Conflicts,
    Engine,
    EngineUnavailable,
    Entry,
    NoResponder,
    Subscription,
    write_over,
)
from gatelink.cluster.follow import follow
from gatelink.cluster.links import GATEWAY, Links
from gatelink.cluster.registry import Registry
from gatelink.errors import LocalError, Refuse, RequestCode, RequestFailed, SessionClosed
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.user_kicks import MARGIN, UserKick, UserKicks, UserSession, is_fresh
from gatelink.session.manager import SLOTS, SessionManager
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.envelope import ALL_SLOTS, KickUser, event

log = Logger("gatelink.gateway")
quiet = RateLimitedLogger(log)

PREFIX = "kicks"

ALL = "all"

TTL = 3_600.0
"""Seconds that a record lives. A directory entry lives for the same time."""

MAX_REASON = 123
"""Characters of a reason. A CLOSE has room for as many bytes."""

REQUEST_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""How long one request to a gateway may take, and all tries of it together. Then the gateway counts as unanswered."""

MAX_UNSEEN = 20_000
"""Kicks without a record whose times a gateway keeps: they came over links alone."""

CATCH_UP_SECONDS = 0.5
"""How long a gateway's answer about a kick waits for the kick's record."""

ASK_AGAIN = 0.1

USER = "kick.user"
"""The subject of requests that any one gateway answers: it ends a user's tokens and sessions."""


class Kicked(msgspec.Struct, frozen=True):
    """The result of a kick so far.

    ended: the sessions that it ended. unanswered: the ids of gateways that have not answered. Each carries the kick out
    when it can. is_kept: whether the engine or the tokens could not be reached. Then this server tries again for an
    hour, and refuses the user meanwhile.
    """

    ended: tuple[UserSession, ...]
    unanswered: tuple[int, ...] = ()
    is_kept: bool = False


class KickRecord(msgspec.Struct, frozen=True, array_like=True):
    """A kick, as the engine keeps it for an hour. at: unix microseconds."""

    at: int
    reason: str


class _Asked(msgspec.Struct, frozen=True, array_like=True):
    """Request to a gateway: end the sessions of a kick, and list them. first_at, last_at: the times of its records."""

    uid: int
    slot: int | None
    reason: str
    first_at: int
    last_at: int


class _UserAsked(msgspec.Struct, frozen=True, array_like=True):
    uid: int
    reason: str


class _UserAnswer(msgspec.Struct, frozen=True, array_like=True):
    """Answer to `_UserAsked`. is_done: False if the gateway keeps the kick. last_at: the time of its last record."""

    ended: list[UserSession]
    is_done: bool
    last_at: int


_encode = msgspec.msgpack.Encoder().encode
_decode_kick = msgspec.msgpack.Decoder(KickRecord).decode
_decode_asked = msgspec.msgpack.Decoder(_Asked).decode
_decode_user = msgspec.msgpack.Decoder(_UserAsked).decode
_decode_answer = msgspec.msgpack.Decoder(_UserAnswer).decode
_decode_uid = msgspec.msgpack.Decoder(int).decode
_decode_sessions = msgspec.msgpack.Decoder(list[UserSession]).decode


def check_user(uid: int, slot: int | None) -> None:
    """Raises LocalError for a uid or slot that no user can have."""
    if not 0 <= uid < 1 << 64 or (slot is not None and slot not in SLOTS):
        raise LocalError(f"uid {uid}, slot {slot}; a uid is 0 to 2**64 - 1, a slot 0 to {SLOTS[-1]} or None for all")


def key_of(uid: int, slot: int | None) -> str:
    """The key of a kick of all slots, or of one."""
    return f"{PREFIX}.{uid}.{ALL if slot is None else slot}"


class GatewayKicks:
    """Carries out the recorded kicks at one gateway, and answers requests about them.

    gateway: its id. kicks: the kicks of its frontend. links: to the other servers.
    """

    def __init__(self, engine: Engine, gateway: int, kicks: UserKicks, sessions: SessionManager, links: Links) -> None:
        self._engine = engine
        self._links = links
        self._gateway = gateway
        self._kicks = kicks
        self._sessions = sessions
        # By the key of a record, as long as the record lives:
        self._seen: dict[str, int] = {}  # its time, as the watch gave it
        self._applied: dict[str, int] = {}  # its time, when it was carried out on all sessions of that moment
        self._ended: dict[str, list[tuple[int, UserSession]]] = {}  # the sessions that it ended
        self._moved = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._serving: list[Subscription] = []

    async def start(self) -> None:
        """Begin to follow the records, and to answer requests. Raises EngineUnavailable."""
        self._kicks.announce = partial(write_record, self._engine)
        self._kicks.relay = partial(relay, self._engine, self._links)
        self._watching = await follow(self._engine, PREFIX, self._known, self._changed, "kicks watch")
        for subject, answer in (
            (f"gateway.{self._gateway}.kick", self._asked),
            (f"gateway.{self._gateway}.sessions", self._list),
            (USER, self._kick_user),
        ):
            self._serving.append(await self._engine.serve(subject, answer))

    async def close(self) -> None:
        """Stop following and answering."""
        serving, self._serving = self._serving, []
        await tasks.gather_all(
            tasks.cancel_and_wait(self._watching), *(subscription.close() for subscription in serving)
        )

    def _user_session(self, session: Session) -> UserSession:
        """A session here, as other processes see it."""
        is_connected = session.state is not SessionState.DETACHED
        return UserSession(self._gateway, session.slot, session.verified_at, is_connected)

    def relayed(self, uid: int, slot: int | None, at: int, reason: str) -> None:
        """Carry out a kick that another server sent over its link. Its record may come before or after this.

        at: unix microseconds of the kick. One that was under way for long, as the link was cut, ends older logins here.
        It is not kept: its sender had the time to write the record.
        """
        key = key_of(uid, slot)
        if self._seen.get(key, 0) >= at:
            return
        is_new = is_fresh(at / 1_000_000, self._engine.now())
        if is_new:
            self._kicks.keep_for_another(uid, slot, reason, at)
        if not is_new or len(self._applied) - len(self._seen) < MAX_UNSEEN:
            self._end(key, uid, slot, KickRecord(at, reason))
        else:
            self._kicks.end(uid, slot, reason)

    # -- the records --

    def _known(self) -> set[str]:
        return {*self._seen, *self._applied, *self._ended}

    def _changed(self, key: str, value: bytes | None) -> None:
        if value is None:
            for table in (self._seen, self._applied, self._ended):
                table.pop(key, None)
            return
        try:
            _, uid, what = key.split(".")
            kick = _decode_kick(value)
            self._seen[key] = kick.at
            slot = None if what == ALL else int(what)
            self._kicks.record_seen(int(uid), slot, kick.at)
            self._end(key, int(uid), slot, kick)
        except (ValueError, msgspec.MsgspecError) as error:
            quiet.error("a kick in the engine cannot be read", key=key, error=str(error))
        self._moved.set()
        self._moved = asyncio.Event()

    def _end(self, key: str, uid: int, slot: int | None, kick: KickRecord, is_asked: bool = False) -> None:
        """End the sessions of a kick once. is_asked: a request for it came now; else its record may be late.

        If the record is late, sessions of later logins stay.
        """
        if self._applied.get(key, 0) >= kick.at:
            return
        at = kick.at / 1_000_000
        if is_asked or is_fresh(at, self._engine.now()):
            self._applied[key] = kick.at
            ended = self._kicks.end(uid, slot, kick.reason)
        else:
            ended = self._kicks.end(uid, slot, kick.reason, at + MARGIN)
        if ended:
            log.info("kicked", uid=uid, slot=slot, sessions=len(ended), reason=kick.reason)
            mine = [(kick.at, self._user_session(session)) for session in ended]
            self._ended[key] = (self._ended.get(key, []) + mine)[-len(SLOTS) :]

    # -- requests --

    async def _asked(self, data: bytes) -> bytes:
        asked = _decode_asked(data)
        key = key_of(asked.uid, asked.slot)
        self._end(key, asked.uid, asked.slot, KickRecord(asked.last_at, asked.reason), is_asked=True)
        try:  # wait for the record: if it came after the answer, it could end a login that is newer than the answer
            async with asyncio.timeout(CATCH_UP_SECONDS):
                while self._seen.get(key, 0) < asked.last_at:
                    await self._moved.wait()
        except TimeoutError:
            pass
        return _encode([session for at, session in self._ended.get(key, ()) if at >= asked.first_at])

    async def _list(self, data: bytes) -> bytes:
        return _encode([self._user_session(session) for session in self._sessions.of(_decode_uid(data))])

    async def _kick_user(self, data: bytes) -> bytes:
        asked = _decode_user(data)
        kick = self._kicks.kick(asked.uid, None, asked.reason)
        if kick is None:
            raise Refuse(0, "too many kicks wait at this gateway; try again later")
        is_done = await asyncio.shield(kick.tried)
        return _encode(_UserAnswer([self._user_session(each) for each in kick.ended], is_done, kick.last_at))


def relay(engine: Engine, links: Links, kick: UserKick) -> None:
    """Send a kick to all gateways over links.

    A full or closed link is passed over: the players' messages go first, and the record reaches all gateways.
    """
    slot = ALL_SLOTS if kick.slot is None else kick.slot
    at = int(engine.now() * 1_000_000)
    kick.first_at = kick.first_at or at
    message = event(KickUser(kick.uid, slot, at, kick.reason[:MAX_REASON]))
    for link in links.of_type(GATEWAY):
        if link.takes_reports:
            with suppress(OutboxFull, SessionClosed):
                link.push(message)


async def write_record(engine: Engine, kick: UserKick) -> bool:
    """Write a kick's record. Returns False if another server has written it. Raises EngineUnavailable.

    The record is never earlier than what `relay` has sent, which is ignored where the record came first.
    The record of a kick that is kept for another server has the time of the kick, so it ends no login of a later time.
    It is written once: a later try finds it, and goes on with the tokens.
    """
    key = key_of(kick.uid, kick.slot)
    conflicts = Conflicts(key)
    while True:
        entry = await engine.get(key)
        before = _time_of(entry)
        if 0 < kick.relayed_at <= before:
            return before == kick.written_at
        now = int(engine.now() * 1_000_000)
        at = max(kick.relayed_at or now, kick.first_at, before + 1)  # the engine's clock may step
        record = KickRecord(at, kick.reason[:MAX_REASON])
        kick.written_at = at
        try:
            await write_over(engine, entry, key, _encode(record), TTL)
        except Conflict:  # another kick of the user came first
            await conflicts.another()
            continue
        kick.last_at = record.at
        kick.first_at = kick.first_at or record.at
        return True


async def ask_a_gateway(engine: Engine, kick: UserKick) -> bool:
    """Write a kick's record, and have a gateway end the user's tokens.

    Returns True, as `UserKicks.announce` wants a result. Raises EngineError, RequestFailed.
    """
    await write_record(engine, kick)
    if kick.slot is None:
        answer = _decode_answer(
            await engine.request(USER, _encode(_UserAsked(kick.uid, kick.reason)), ANSWER_SECONDS + REQUEST_SECONDS)
        )
        kick.ended_elsewhere += answer.ended
        kick.last_at = max(kick.last_at, answer.last_at)
        if not answer.is_done:
            raise RequestFailed(RequestCode.FAILED, 0, "a gateway keeps the kick: the tokens can't be ended now")
    return True


def _time_of(entry: Entry | None) -> int:
    """The time of a record; 0 without one, and for one that can't be read."""
    try:
        return _decode_kick(entry.value).at if entry is not None else 0
    except msgspec.MsgspecError:
        return 0


class ClusterUsers:
    """Asks the gateways of the cluster for the sessions of users.

    engine: started. registry: started; it need not be registered itself.
    """

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    async def sessions(self, uid: int) -> list[UserSession]:
        """The sessions of a user, by gateway and slot.

        A gateway that does not answer is taken to have the sessions that the directory says. Raises EngineUnavailable.
        """
        check_user(uid, None)
        found, unanswered = await self._ask("sessions", _encode(uid))
        if unanswered:
            for slot, place in (await places_of(self._engine, uid)).items():
                if place.gateway in unanswered:
                    found.append(UserSession(place.gateway, slot, 0.0))
        return sorted(found, key=lambda each: (each.gateway, each.slot))

    async def kick(self, uid: int, slot: int | None = None, reason: str = "") -> Kicked:
        """As `Cluster.kick`, for a process that is no server of the cluster: nothing is kept.

        Raises LocalError, EngineUnavailable. Raises NoResponder and RequestFailed if no gateway ends the tokens now.
        Gateways still end the sessions.
        """
        check_user(uid, slot)
        kick = UserKick(uid, slot, reason, ends_tokens=slot is None, cluster_wide=True, until=0.0)
        await ask_a_gateway(self._engine, kick)
        return await self.kicked(kick)

    async def kicked(self, kick: UserKick) -> Kicked:
        """Ask the gateways which sessions an announced kick ended."""
        asked = _Asked(kick.uid, kick.slot, kick.reason, kick.first_at, kick.last_at)
        found, unanswered = await self._ask("kick", _encode(asked))
        found += kick.ended_elsewhere
        return Kicked(tuple(sorted(found, key=lambda each: (each.gateway, each.slot))), tuple(unanswered))

    async def _ask(self, what: str, data: bytes) -> tuple[list[UserSession], list[int]]:
        """The answers of all gateways, and the gateways that did not answer."""
        ids = sorted(info.id for info in self._registry.servers.values() if info.type == GATEWAY)
        answers = await asyncio.gather(*(self._ask_one(id, what, data) for id in ids))
        found = [session for answer in answers if answer is not None for session in answer]
        return found, [id for id, answer in zip(ids, answers, strict=True) if answer is None]

    async def _ask_one(self, id: int, what: str, data: bytes) -> list[UserSession] | None:
        """None without an answer. A gateway that has left the registry has no sessions."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while id in self._registry.servers:
                    try:
                        return _decode_sessions(
                            await self._engine.request(f"gateway.{id}.{what}", data, REQUEST_SECONDS)
                        )
                    except EngineUnavailable:
                        return None
                    except RequestFailed as error:
                        if error.code is RequestCode.TIMEOUT:
                            return None
                    except NoResponder:
                        pass
                    await asyncio.sleep(ASK_AGAIN)  # the gateway starts or stops, or has too many requests
        except TimeoutError:
            return None
        return []
