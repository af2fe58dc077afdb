"""Messages arrive exactly once and in order, however connections break (docs/protocol.md, "Resume").

Every test ends with both sides having heard all that the other sent: 0, 1, 2, ... without a gap or a repetition.
"""

import asyncio
import socket
import ssl
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gatelink import Limits, Session, connect
from gatelink.config import ACK_FRAMES
from gatelink.net.dialer import UNACKNOWLEDGED
from gatelink.session.outbox import Full
from gatelink.session.states import SessionState
from gatelink.testing import Delay, Fault, HalfClose, Reset, Split, Stall
from gatelink.wire.control import Ack
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import (
    CATALOG,
    Blob,
    Note,
    leave,
    make_certificate,
    serving,
    until,
)
from tests.e2e.talk import KEY, KINDS, Talk, talking
from tests.fakes import extension_of
from tests.limits import with_window
from tests.support import MS

QUICK = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=400 * MS)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


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
        while extension_of(talk.other).attempt < 3 and proxy.connections < 12:
            await talk.chatter(2, 8)
        if not extension_of(talk.other).attempt:  # on a slow machine every path broke before a handshake was over
            proxy.cut_all()
        await until(lambda: extension_of(talk.other).attempt)
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


@pytest.mark.parametrize(("resume", "seconds"), [(True, UNACKNOWLEDGED), (False, 0)])
async def test_the_kernel_gives_up_a_path_that_acknowledges_nothing_where_the_client_can_resume(
    resume: bool, seconds: float
) -> None:
    """Else a machine that died without a word costs its clients a heartbeat timeout of silence."""
    async with serving(keys=[KEY]) as server:
        session = await connect(str(server.endpoint), uid=7, token=f"{7:032d}", server_key=KEY.public, resume=resume)
        stream: Any = session._stream
        client: socket.socket = stream.transport.get_extra_info("socket")
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1_000
        await leave(session)


async def test_a_new_connection_wins_over_an_old_one_that_nobody_noticed_was_dead() -> None:
    async with talking("plain") as (talk, proxy):
        states = []
        talk.server.on_suspended(lambda session: states.append("suspended"))
        talk.server.on_resumed(lambda session: states.append("resumed"))
        stream, left = cast(Any, talk.other._stream), cast(Any, talk.session._stream)
        proxy.drop()
        talk.say(20)
        proxy.restore()
        left.transport.abort()
        await talk.all_heard()
        assert talk.other._stream is not stream and stream.transport.is_closing()
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
            await until(lambda: talk.other.user.is_full)
            proxy.cut_all()
            await until(lambda: talk.other.state is SessionState.OPEN and talk.session.state is SessionState.OPEN)
            stream: Any = talk.other._stream
            await until(lambda stream=stream: not stream.transport.is_reading())  # type: ignore[misc]
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
