"""What was sent arrives exactly once and in order, however connections break (docs/protocol.md, "Resume").

Every test ends with both sides having heard all that the other sent: 0, 1, 2, ... without a gap or a repetition.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import pytest
from msgspec.structs import replace

from gatelink import Backoff, CloseCode, ConnectError, Duplicate, Handlers, Limits, Listen, ServerKey, Session, connect
from gatelink.config import ACK_FRAMES
from gatelink.dispatch import CLOSED
from gatelink.net.login import Login
from gatelink.session.extended import ExtendedSession
from gatelink.session.outbox import Full
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy, Delay, Fault, HalfClose, Reset, Split, Stall
from gatelink.wire.base import VERIFY_SUCCEEDED
from gatelink.wire.control import Ack, Close, Ticket
from tests.e2e.extension import BOTH, ExtendedClient
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    make_certificate,
    open_sockets,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.limits import with_window
from tests.support import MS

KEY = ServerKey.generate()
SOON = Backoff(first=5 * MS, most=20 * MS, attempts=500)
QUICK = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=400 * MS)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Talk:
    """A client and a server that number what they send, and note what they hear."""

    def __init__(self, server: EchoServer, uid: int = 7) -> None:
        self.server = server
        self.uid = uid
        self.heard: list[int] = []  # by the client
        self.events: list[str] = []
        self.sent = self.pushed = 0
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Note)(lambda session, message: self.heard.append(message.n))
        handlers.on(Blob)(lambda session, message: None)
        handlers.on_suspended(lambda session: self.events.append("suspended"))
        handlers.on_resumed(lambda session: self.events.append("resumed"))
        handlers.on_closed(lambda session: self.events.append(f"closed {session.close_code:d}"))

    async def begin(self, where: object, **how: Any) -> Self:
        """Connects; where connections break, until it succeeds."""
        settings: dict[str, Any] = {"reconnect": SOON, "handlers": self.handlers, "catalog": CATALOG, "resume": True}
        settings |= how
        for _ in range(20):
            with suppress(ConnectError):
                self.session = await connect(str(where), uid=self.uid, token=token_of(self.uid).decode(), **settings)
                break
        other = self.server.session(self.uid)
        assert isinstance(other, ExtendedSession)
        self.other = other
        return self

    def say(self, count: int = 1) -> None:
        """Both sides send."""
        for _ in range(count):
            self.session.send(Note(self.sent))
            self.sent += 1
            self.other.send(Note(self.pushed))
            self.pushed += 1

    async def chatter(self, rounds: int, count: int = 5) -> None:
        for _ in range(rounds):
            self.say(count)
            await asyncio.sleep(MS)

    @property
    def reached(self) -> list[int]:
        """What the server heard."""
        return [n for uid, n in self.server.notes if uid == self.uid]

    async def all_heard(self) -> None:
        await until(
            lambda: len(self.heard) >= self.pushed and len(self.reached) >= self.sent,
            f"{len(self.heard)} of {self.pushed} down, {len(self.reached)} of {self.sent} up",
        )
        assert self.heard == list(range(self.pushed))
        assert self.reached == list(range(self.sent))

    async def end(self) -> None:
        """All was heard, and the session is the one it was."""
        await self.all_heard()
        assert self.session.close_code is None and self.server.sessions.get(self.uid) is self.other


KINDS = ["plain", "sealed", "tls"]


@asynccontextmanager
async def talking(
    kind: str = "sealed",
    script: Sequence[Fault] = (),
    *,
    seed: int = 0,
    certificate: tuple[str, str, ssl.SSLContext] | None = None,
    limits: Limits | None = None,
    client_limits: Limits | None = None,
) -> AsyncIterator[tuple[Talk, ChaosProxy]]:
    """A `Talk` through a proxy; the connection is of one of KINDS."""
    listen: str | Listen = TCP
    how: dict[str, Any] = {"limits": client_limits or limits or Limits()}
    if kind == "tls":
        assert certificate is not None
        listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate[0], key=certificate[1])
        how["tls"] = certificate[2]
    elif kind == "sealed":
        how["server_key"] = KEY.public
    async with (
        serving(listen, keys=[KEY], resume_plain=kind == "plain", limits=limits) as server,
        ChaosProxy((server.endpoint.host, server.endpoint.port), script, seed=seed) as proxy,
    ):
        scheme = "tls" if kind == "tls" else "tcp"
        talk = await Talk(server).begin(f"{scheme}://127.0.0.1:{proxy.address[1]}", **how)
        try:
            yield talk, proxy
        finally:
            talk.session.abort()


# -- breaks of every kind --

SCRIPTS: dict[str, tuple[Fault, ...]] = {
    "resets in the middle of frames": (Reset(mean_bytes=3_000),),
    "resets up": (Reset(mean_bytes=2_000, direction="up"),),
    "half-close down": (HalfClose(mean_bytes=3_000, direction="down"),),
    "half-close up": (HalfClose(mean_bytes=3_000, direction="up"),),
    "stalls and resets": (Stall(seconds=20 * MS, mean_bytes=2_000), Reset(mean_bytes=4_000)),
    "single bytes and resets": (Split(size=1), Reset(mean_bytes=2_500)),
    "a slow path that breaks by time": (Delay(seconds=2 * MS, jitter=5 * MS), Reset(mean_seconds=40 * MS)),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_nothing_is_lost_doubled_or_reordered(
    script: tuple[Fault, ...], kind: str, seed: int, certificate: tuple[str, str, ssl.SSLContext]
) -> None:
    first = [replace(fault, connection=n) for fault in script for n in range(1, 13)]
    async with talking(kind, first, seed=seed, certificate=certificate) as (talk, proxy):
        while talk.other.attempt < 3 and proxy.connections < 12:
            await talk.chatter(2, 8)
        assert talk.other.attempt, "or nothing was tried"
        await talk.end()


@pytest.mark.parametrize("kind", ["plain", "sealed"])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("after", [1, 14, 17, 40, 75, 79, 85, 90, 130, 200, 400])
async def test_a_break_while_the_session_is_being_resumed_loses_nothing(kind: str, direction: Any, after: int) -> None:
    """Somewhere in HELLO or HANDSHAKE, RESUME, RESUMED, or what is sent again; then once more."""
    script = [Reset(connection=n, direction=direction, after_bytes=after) for n in (2, 3)]
    async with talking(kind, script) as (talk, proxy):
        talk.say(10)
        await talk.all_heard()
        proxy.cut_all()
        talk.say(30)
        await until(lambda: proxy.connections >= 2)
        await talk.all_heard()
        talk.say(30)
        await talk.end()


@pytest.mark.parametrize("kind", ["plain", "sealed"])
async def test_many_breaks_in_a_row_lose_nothing(kind: str) -> None:
    async with talking(kind) as (talk, proxy):
        for n in range(25):
            talk.say(7)
            if n % 3 == 0:
                await asyncio.sleep(MS)
            proxy.cut_all()
            if n % 2 == 0:
                await until(lambda: talk.session.state is SessionState.OPEN)
        await talk.end()
        assert talk.events.count("suspended") == talk.events.count("resumed") >= 5


async def test_large_messages_survive_breaks_too() -> None:
    bodies: list[bytes] = []
    limits = Limits(max_frame=1_048_576, max_outbox_bytes=4_194_304)
    async with talking("sealed", [Reset(connection=n, after_bytes=n * 300_000) for n in (1, 2, 3)], limits=limits) as (
        talk,
        proxy,
    ):
        del talk.handlers.routes[CATALOG.find(Blob).id]
        talk.handlers.on(Blob)(lambda session, message: bodies.append(bytes(message)))
        for n in range(6):
            talk.session.send(Blob(bytes([n]) * 200_000))
            talk.say()
        await until(lambda: len(bodies) == 6)
        assert bodies == [bytes([n]) * 200_000 for n in range(6)]
        assert proxy.breaks >= 2
        await talk.end()


async def test_a_path_that_breaks_before_a_whole_resend_is_across_makes_progress_all_the_same() -> None:
    """Every connection carries 40,000 bytes down, and a window of four times that waits."""
    bodies: list[bytes] = []
    script = [Reset(direction="down", after_bytes=40_000)]
    async with talking("sealed", script) as (talk, proxy):
        del talk.handlers.routes[CATALOG.find(Blob).id]
        talk.handlers.on(Blob)(lambda session, message: bodies.append(bytes(message)))
        for n in range(80):
            talk.other.send(Blob(bytes([n]) * 2_000))
        await until(lambda: len(bodies) == 80)
        assert bodies == [bytes([n]) * 2_000 for n in range(80)]
        assert proxy.breaks >= 4


async def test_a_dead_path_is_noticed_within_the_heartbeat_timeout_and_left() -> None:
    async with talking("sealed", limits=QUICK) as (talk, proxy):
        talk.say(5)
        await talk.all_heard()
        proxy.drop()
        talk.say(5)
        proxy.restore()
        await talk.end()
        assert talk.events[:2] == ["suspended", "resumed"]


async def test_a_new_connection_wins_over_an_old_one_that_nobody_noticed_was_dead() -> None:
    async with talking("plain", client_limits=QUICK) as (talk, proxy):
        states = []
        talk.server.on_suspended(lambda session: states.append("suspended"))
        talk.server.on_resumed(lambda session: states.append("resumed"))
        carrier: Any = talk.other._carrier
        proxy.drop()
        talk.say(20)
        proxy.restore()
        await talk.all_heard()
        assert talk.other._carrier is not carrier and carrier.transport.is_closing()
        assert states == [], "the server never missed it"
        await talk.end()


async def test_both_sides_tell_their_handlers_of_a_break_and_its_end() -> None:
    async with talking() as (talk, proxy):
        states = []
        talk.server.on_suspended(lambda session: states.append("suspended"))
        talk.server.on_resumed(lambda session: states.append("resumed"))
        proxy.cut_all()
        await until(lambda: "resumed" in states and "resumed" in talk.events)
        assert states == talk.events == ["suspended", "resumed"]
        await talk.end()


async def test_what_is_sent_while_detached_arrives_in_order_behind_what_was_sent_before() -> None:
    async with talking() as (talk, proxy):
        talk.say(5)
        proxy.refuse(200 * MS)
        proxy.cut_all()
        await until(lambda: talk.other.state is SessionState.DETACHED and talk.session.state is SessionState.DETACHED)
        talk.say(300)
        assert talk.other.outbox.count == 300
        await talk.end()


# -- handlers --


async def test_a_handler_that_runs_while_its_session_breaks_and_resumes_keeps_the_order() -> None:
    async with talking() as (talk, proxy):
        running, go = asyncio.Event(), asyncio.Event()
        order: list[int] = []

        @talk.server.instead(Note)
        async def note(session: Session, message: Note) -> None:
            running.set()
            await go.wait()
            order.append(message.n)
            talk.server.notes.append((session.uid, message.n))
            session.send(Note(talk.pushed))
            talk.pushed += 1

        for n in range(20):
            talk.session.send(Note(n))
        talk.sent = 20
        await running.wait()
        proxy.cut_all()
        await until(lambda: talk.other.state is SessionState.DETACHED)
        await until(lambda: talk.other.state is SessionState.OPEN)
        for n in range(20, 40):
            talk.session.send(Note(n))
        talk.sent = 40
        go.set()
        await talk.all_heard()
        assert order == list(range(40))
        await talk.end()


async def test_an_inbox_full_beyond_the_window_pauses_the_next_connection_and_everything_is_handled_once() -> None:
    limits = Limits(max_inbox=10, window_frames=ACK_FRAMES)
    async with talking(limits=limits, client_limits=Limits()) as (talk, proxy):
        go = asyncio.Event()

        @talk.server.instead(Note)
        async def note(session: Session, message: Note) -> None:
            await go.wait()
            talk.server.notes.append((session.uid, message.n))

        for _ in range(3):
            talk.say(100)
            await until(lambda: talk.other.inbox is not None and talk.other.inbox.paused)
            proxy.cut_all()
            await until(lambda: talk.other.state is SessionState.OPEN and talk.session.state is SessionState.OPEN)
            carrier: Any = talk.other._carrier
            await until(lambda carrier=carrier: not carrier.transport.is_reading())  # type: ignore[misc]
        go.set()
        await talk.end()


async def test_a_handler_that_drains_is_not_kept_waiting_by_what_waits_for_it() -> None:
    """The acknowledgements that it waits for stand behind more messages than the inbox may hold."""
    async with talking(limits=Limits(max_inbox=10)) as (talk, _):
        drained: list[int] = []

        @talk.server.instead(Note)
        async def note(session: Session, message: Note) -> None:
            for _ in range(100):
                session.send(Blob(bytes(10_000)))
                await session.drain()
            drained.append(message.n)

        for n in range(200):
            talk.session.send(Note(n))
        await until(lambda: len(drained) >= 3)
        assert talk.session.state is SessionState.OPEN


# -- the send window --


async def test_a_full_window_holds_back_and_goes_on_with_the_acknowledgement() -> None:
    async with serving(keys=[KEY], limits=with_window(Limits(max_outbox_frames=20), 8)) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        session = server.session(7)
        for n in range(40):
            session.send(Note(n), full=Full.DROP_NEWEST)
            await asyncio.sleep(0)
        assert [await client.message() for _ in range(8)] == [Note(n) for n in range(8)]
        assert (session.outbox.sent, session.outbox.count, session.outbox.dropped) == (8, 20, 12)
        client.say(Ack(8))
        assert [await client.message() for _ in range(8)] == [Note(n) for n in range(8, 16)]
        client.say(Ack(16))
        assert [await client.message() for _ in range(8)] == [Note(n) for n in range(16, 24)]
        client.say(Ack(24))
        assert [await client.message() for _ in range(4)] == [Note(n) for n in range(24, 28)]
        await client.close()


async def test_what_a_hundred_idle_sessions_were_sent_is_let_go_once_they_have_it() -> None:
    async with serving(keys=[KEY]) as server:
        talks = [await Talk(server, uid).begin(server.endpoint, server_key=KEY.public) for uid in range(1, 101)]
        server.sessions.broadcast(Blob(bytes(10_000)))
        assert sum(session.outbox.held_bytes for session in server.sessions) > 1_000_000
        await until(lambda: not any(session.outbox.held_bytes for session in server.sessions))
        for talk in talks:
            talk.session.close()
        for talk in talks:
            await talk.session.wait_closed()


# -- the end --


async def test_over_the_window_the_resume_is_refused_and_both_sides_say_why() -> None:
    async with talking(limits=Limits(resume_window=1)) as (talk, proxy):
        proxy.drop()
        assert isinstance(talk.other, ExtendedSession)
        carrier: Any = talk.other._carrier
        carrier.transport.abort()
        await until(lambda: talk.server.ended)
        assert talk.server.ended == [(7, CloseCode.NORMAL)], "its break was an end of stream"
        proxy.restore()
        proxy.cut_all()
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert talk.events == ["suspended", "closed 4012"]


async def test_kicked_while_detached_is_not_taken_back() -> None:
    async with talking() as (talk, proxy):
        proxy.refuse(100 * MS)
        proxy.cut_all()
        await until(lambda: talk.other.state is SessionState.DETACHED)
        talk.other.kick("enough")
        assert talk.server.sessions.get(7) is None
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert talk.server.ended == [(7, CloseCode.KICKED)]


async def test_a_newer_login_while_detached_ends_the_older_session_for_good() -> None:
    async with talking() as (talk, proxy):
        talk.say(5)
        await talk.all_heard()
        proxy.refuse(200 * MS)
        proxy.cut_all()
        await until(lambda: talk.other.state is SessionState.DETACHED)
        talk.other.send(Note(99))  # what a ticketed session held is not given to a later login
        newer = await Talk(talk.server).begin(talk.server.endpoint, server_key=KEY.public)
        assert talk.server.ended == [(7, CloseCode.REPLACED)]
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        newer.other.send(Note(0))
        await until(lambda: newer.heard)
        assert newer.heard == [0] and talk.server.sessions.get(7) is newer.other
        newer.session.close()
        await newer.session.wait_closed()


async def test_where_newer_logins_are_refused_a_detached_session_locks_nobody_out() -> None:
    """An app that crashed has lost its ticket; it shall not wait for the window's end."""
    async with serving(keys=[KEY], duplicate=Duplicate.REFUSE_NEW) as server:
        crashed = await ExtendedClient.logged_in(server, 7, KEY.public)
        refused = await ExtendedClient.extended(server, KEY.public)
        refused.send(verify_request(7))
        assert (await refused.end())[-1] == Close(CloseCode.VERIFY_FAILED, "")
        crashed.reset()
        older = server.session(7)
        await until(lambda: older.state is SessionState.DETACHED)
        again = await ExtendedClient.logged_in(server, 7, KEY.public)
        await again.echo(1)
        assert older.close_code is CloseCode.REPLACED and server.session(7) is not older
        for one in (refused, again):
            await one.close()


async def test_a_client_that_leaves_in_order_leaves_nothing_behind() -> None:
    async with talking() as (talk, _):
        talk.say(10)
        talk.session.close()
        await talk.session.wait_closed()
        await until(lambda: talk.server.ended)
        assert talk.reached == list(range(10))
        assert len(talk.server.sessions) == 0 and not talk.server.sessions._tickets


async def test_a_session_closed_while_it_is_being_resumed_stays_closed() -> None:
    async with talking() as (talk, proxy):
        proxy.pause()
        proxy.cut_all()
        await until(lambda: talk.session.state is SessionState.DETACHED and proxy.connections >= 2)
        talk.session.close()
        await talk.session.wait_closed()
        proxy.resume()
        await until(lambda: len(talk.events) > 1)
        assert talk.events == ["suspended", "closed 4000"]


async def test_a_close_in_answer_to_resume_ends_the_session_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between RESUME and RESUMED nobody sends anything but CLOSE, and that is the last word."""

    def ban(login: Login, why: str) -> None:
        login._refuse("banned", CloseCode.KICKED)

    monkeypatch.setattr(Login, "_refuse_resume", ban)
    async with talking() as (talk, proxy):
        talk.server.sessions._tickets.clear()
        proxy.cut_all()
        await talk.session.wait_closed()
        assert (talk.session.close_code, talk.session.close_reason) == (CloseCode.KICKED, "")
        assert talk.events == ["suspended", "closed 4009"]


async def test_stopping_while_sessions_are_detached_leaves_nothing() -> None:
    before = open_sockets()
    async with serving(keys=[KEY]) as server:
        clients = [await ExtendedClient.logged_in(server, uid, KEY.public) for uid in range(1, 11)]
        for client in clients:
            client.reset()
        sessions = list(server.sessions)
        await until(lambda: all(session.state is SessionState.DETACHED for session in sessions))
        await server.stop()
        assert sorted(server.ended) == [(uid, CloseCode.GOING_AWAY) for uid in range(1, 11)]
        assert all(session.state is SessionState.CLOSED for session in sessions)
        assert not server.sessions._tickets and not server.sessions._detached and not len(server.hub.wheel)
    await until(lambda: open_sockets() <= before)


async def test_a_stopped_server_s_clients_are_told_to_come_again_and_are_refused_by_the_next() -> None:
    async with talking() as (talk, _):
        talk.say(3)
        await talk.all_heard()
        listen = str(talk.server.endpoint)
        await talk.server.stop()
        await until(lambda: talk.events == ["suspended"])
        async with serving(listen, keys=[KEY]):
            await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED


async def test_over_the_limit_of_detached_sessions_the_one_that_broke_first_ends() -> None:
    async with serving(keys=[KEY], limits=Limits(max_detached=2)) as server:
        for uid in (1, 2, 3):
            client = await ExtendedClient.logged_in(server, uid, KEY.public)
            client.reset()
            session = server.session(uid)
            await until(lambda session=session: session.state is SessionState.DETACHED)  # type: ignore[misc]
        await until(lambda: server.ended)
        assert server.ended == [(1, CloseCode.GOING_AWAY)]
        assert [session.uid for session in server.sessions] == [2, 3]


async def test_a_session_that_is_back_is_not_detached_any_more() -> None:
    async with serving(keys=[KEY], limits=Limits(max_detached=1)) as server:
        first = await ExtendedClient.logged_in(server, 1, KEY.public)
        first.reset()
        await until(lambda: server.session(1).state is SessionState.DETACHED)
        back = await ExtendedClient.extended(server, KEY.public)
        back.resume(first.ticket)
        await back.resumed(first.ticket)
        second = await ExtendedClient.logged_in(server, 2, KEY.public)
        second.reset()
        await until(lambda: server.session(2).state is SessionState.DETACHED)
        await back.echo(1)
        assert server.ended == []
        await back.close()


async def test_over_the_limit_of_detached_bytes_the_one_that_broke_first_ends() -> None:
    async with serving(keys=[KEY], limits=Limits(max_detached_bytes=25_000)) as server:
        for uid in (1, 2, 3):
            client = await ExtendedClient.logged_in(server, uid, KEY.public)
            session = server.session(uid)
            client.reset()
            await until(lambda session=session: session.state is SessionState.DETACHED)  # type: ignore[misc]
            session.send(Blob(bytes(10_000)))
        await until(lambda: server.ended)
        assert server.ended == [(1, CloseCode.GOING_AWAY)]
        assert [session.uid for session in server.sessions] == [2, 3]


# -- what stays the same, and what is new, on the next connection --


async def test_a_resumed_session_keeps_its_data_and_gets_its_new_address_and_features() -> None:
    async with serving(keys=[KEY]) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public, slot=3)
        session = server.sessions.get(7, 3)
        assert isinstance(session, ExtendedSession) and session.features == BOTH
        session.data, session.address = {"gold": 5}, "10.0.0.1"
        again = await ExtendedClient.extended(server, KEY.public, features=1)
        again.resume(client.ticket)
        assert await again.resumed(client.ticket) == 0
        assert server.sessions.get(7, 3) is session and session.data == {"gold": 5}
        assert (session.address, session.features) == ("127.0.0.1", 1)
        await again.echo(1)
        for one in (client, again):
            await one.close()


async def test_a_base_client_beside_it_is_not_touched_by_any_of_it() -> None:
    async with talking(script=[Reset(connection=n, after_bytes=3_000) for n in (1, 2)]) as (talk, _):
        base = await RawClient.verified(talk.server, 8)
        while talk.other.attempt < 2:
            talk.say(5)
            await base.echo(talk.sent)
        await base.close()
        await until(lambda: (8, CloseCode.NORMAL) in talk.server.ended)
        await talk.all_heard()


# -- a login that waits until the end of the one that it replaces has been told --


@asynccontextmanager
async def waiting_login(*, interval: float = 10.0) -> AsyncIterator[tuple[EchoServer, list[str], Any]]:
    """The server, what its handlers heard, and what lets the first login's handler, and with it its session, end."""
    go = asyncio.Event()
    events: list[str] = []
    limits = Limits(heartbeat_interval=interval, heartbeat_timeout=60)
    async with serving(keys=[KEY], limits=limits) as server:
        del server.handlers.routes[CLOSED]
        names: dict[Session, int] = {}
        server.on_verified(lambda session: events.append(f"verified {names.setdefault(session, len(names) + 1)}"))
        server.on_suspended(lambda session: events.append(f"suspended {names[session]}"))
        server.on_resumed(lambda session: events.append(f"resumed {names[session]}"))
        server.on_closed(lambda session: events.append(f"closed {names[session]}"))

        @server.instead(Blob)
        async def blob(session: Session, message: Blob) -> None:
            events.append("busy")
            await go.wait()

        first = await ExtendedClient.logged_in(server, 7, KEY.public)
        first.send(frame_of(Blob(b"")))
        await until(lambda: "busy" in events)
        yield server, events, go
        await first.close()


async def test_what_came_with_a_login_that_has_to_wait_is_heard_once_though_it_resumes_meanwhile() -> None:
    async with waiting_login() as (server, events, go):
        client = await ExtendedClient.extended(server, KEY.public)
        client.send(verify_request(7), frame_of(Note(1)))
        assert (await client.frame())[0] == VERIFY_SUCCEEDED
        ticket = await client.control()
        assert isinstance(ticket, Ticket)
        back = await ExtendedClient.extended(server, KEY.public)
        back.resume(ticket)
        assert await back.resumed(ticket) == 0, "it has not been taken in"
        back.send(frame_of(Note(1)), frame_of(Note(2)), frame_of(Echo(3)))
        await asyncio.sleep(20 * MS)
        assert server.notes == [] and events == ["verified 1", "busy"], "the older login's handler is still at it"
        go.set()
        assert await back.message() == Echo(3)
        assert server.notes == [(7, 1), (7, 2)]
        assert events == ["verified 1", "busy", "closed 1", "verified 2"]
        for one in (client, back):
            await one.close()


async def test_a_login_that_breaks_while_it_has_to_wait_can_be_resumed_as_any_other() -> None:
    async with waiting_login(interval=100 * MS) as (server, events, go):
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        session = server.session(7)
        carrier: Any = session._carrier
        carrier.transport.abort()
        await until(lambda: session.state is SessionState.DETACHED)
        go.set()
        await until(lambda: "suspended 2" in events)
        await asyncio.sleep(400 * MS)  # several times the interval, which is no window
        back = await ExtendedClient.extended(server, KEY.public)
        back.resume(client.ticket)
        await back.resumed(client.ticket)
        await back.echo(1)
        assert events == ["verified 1", "busy", "closed 1", "verified 2", "suspended 2", "resumed 2"]
        for one in (client, back):
            await one.close()


async def test_a_login_that_ends_while_it_has_to_wait_is_told_in_its_turn() -> None:
    async with waiting_login() as (server, events, go):
        second = await ExtendedClient.logged_in(server, 7, KEY.public)
        third = await ExtendedClient.logged_in(server, 7, KEY.public)
        third.send(frame_of(Echo(1)))
        await asyncio.sleep(20 * MS)
        assert events == ["verified 1", "busy"]
        go.set()
        assert await third.message() == Echo(1)
        assert events == ["verified 1", "busy", "closed 1", "verified 2", "closed 2", "verified 3"]
        for one in (second, third):
            await one.close()


async def test_a_login_that_its_first_handler_ends_is_told_once() -> None:
    async with serving(keys=[KEY]) as server:
        events: list[str] = []

        @server.on_verified
        def verified(session: Session) -> None:
            events.append("verified")
            session.kick("no")

        client = await ExtendedClient.extended(server, KEY.public)
        client.send(verify_request(7))
        await client.end()
        await until(lambda: server.ended)
        assert events == ["verified"] and server.ended == [(7, CloseCode.KICKED)]
        await client.close()
