"""How a session that could be resumed ends, and what is of the session and what of its connection alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatelink import CloseCode, Duplicate, Limits, Session
from gatelink.handlers import CLOSED
from gatelink.net.login import Login
from gatelink.session.states import SessionState
from gatelink.testing import Reset
from gatelink.wire.base import VERIFY_SUCCEEDED
from gatelink.wire.control import Close, Features, Ticket, control_frame
from gatelink.wire.resume import resume
from tests.e2e.extension import BOTH, ExtendedClient, closed
from tests.e2e.support import (
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    leave,
    open_sockets,
    serving,
    until,
    verify_request,
)
from tests.e2e.talk import KEY, Talk, talking
from tests.fakes import extension_of
from tests.support import MS

# -- the end --


async def test_over_the_window_the_resume_is_refused_and_both_sides_say_why() -> None:
    async with talking(limits=Limits(resume_window=1)) as (talk, proxy):
        proxy.drop()
        assert talk.other.extension is not None
        stream: Any = talk.other._stream
        stream.transport.abort()
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


async def test_an_older_version_in_the_servers_place_ends_the_session_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't resume the session, whatever it says: a client that dials it again and again is silent for minutes."""
    async with talking() as (talk, proxy):
        monkeypatch.setattr(Login, "_offered", property(lambda login: Features.PING))
        proxy.cut_all()
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert talk.events == ["suspended", "closed 4012"]


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
        await leave(newer.session)


async def test_where_newer_logins_are_refused_a_detached_session_locks_nobody_out() -> None:
    """An app that crashed has lost its ticket; it must not wait for the window's end."""
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
        await leave(talk.session)
        await until(lambda: talk.server.ended)
        assert talk.reached == list(range(10))
        assert len(talk.server.sessions) == 0 and not talk.server.sessions._tickets


async def test_a_session_closed_while_it_is_being_resumed_stays_closed() -> None:
    async with talking() as (talk, proxy):
        proxy.pause()
        proxy.cut_all()
        await until(lambda: talk.session.state is SessionState.DETACHED and proxy.connections >= 2)
        await leave(talk.session)
        proxy.resume()
        await until(lambda: len(talk.events) > 1)
        assert talk.events == ["suspended", "closed 4000"]


async def test_a_close_in_answer_to_resume_ends_the_session_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between RESUME and RESUMED nobody sends anything but CLOSE, and that is the last word."""

    def ban(login: Login, why: str) -> None:
        login.refuse("banned", CloseCode.KICKED)

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
        assert not server.sessions._tickets and not server.sessions._detached and not len(server.context.wheel)
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


async def test_a_resumed_session_keeps_its_data_and_features_and_gets_its_new_address() -> None:
    async with serving(keys=[KEY]) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public, slot=3)
        session = server.sessions.get(7, 3)
        assert session is not None and extension_of(session).features == BOTH
        session.data, session.address = {"gold": 5}, "10.0.0.1"
        again = await ExtendedClient.extended(server, KEY.public, features=BOTH | 1 << 40)
        again.resume(client.ticket)
        assert await again.resumed(client.ticket) == 0
        assert server.sessions.get(7, 3) is session and session.data == {"gold": 5}
        assert (session.address, extension_of(session).features) == ("127.0.0.1", BOTH)
        await again.echo(1)
        for one in (client, again):
            await one.close()


async def test_a_base_client_beside_it_is_not_touched_by_any_of_it() -> None:
    async with talking(script=[Reset(connection=n, after_bytes=3_000) for n in (1, 2)]) as (talk, _):
        base = await RawClient.verified(talk.server, 8)
        while extension_of(talk.other).attempt < 2:
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
        await asyncio.sleep(20 * MS)  # that nothing is handled has no event
        assert server.notes == [] and events == ["verified 1", "busy"], "the older login's handler is still at it"
        go.set()
        assert await back.message() == Echo(3)
        assert server.notes == [(7, 1), (7, 2)]
        assert events == ["verified 1", "busy", "closed 1", "verified 2"]
        for one in (client, back):
            await one.close()


async def test_nothing_is_handled_before_the_session_is_open_whatever_comes_with_its_resume() -> None:
    async with waiting_login() as (server, events, go):
        second = await ExtendedClient.logged_in(server, 7, KEY.public)
        ticket = second.ticket
        second.reset()
        back = await ExtendedClient.extended(server, KEY.public)
        record = resume(ticket.resume_key, back.handshake_hash, ticket.session_id, 0, 1)
        back.send(control_frame(record) + frame_of(Note(1)))
        assert await back.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.notes == [] and events == ["verified 1", "busy"]
        honest = await ExtendedClient.extended(server, KEY.public)
        honest.resume(ticket)
        await honest.resumed(ticket)
        honest.send(frame_of(Note(2)), frame_of(Echo(3)))
        go.set()
        assert await honest.message() == Echo(3)
        assert server.notes == [(7, 2)] and events[:4] == ["verified 1", "busy", "closed 1", "verified 2"]
        for one in (second, back, honest):
            await one.close()


async def test_a_login_that_breaks_while_it_has_to_wait_can_be_resumed_as_any_other() -> None:
    async with waiting_login(interval=100 * MS) as (server, events, go):
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        session = server.session(7)
        stream: Any = session._stream
        stream.transport.abort()
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
        await asyncio.sleep(20 * MS)  # that nothing is handled has no event
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
