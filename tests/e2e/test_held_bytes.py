"""What all sessions hold together is bounded: over it those that hold most end, and nobody else."""

import asyncio
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gatelink import CloseCode, Limits, Listen, Session, tasks
from gatelink.net import memory_guard
from gatelink.net.memory_guard import MemoryGuard
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import (
    TCP,
    Blob,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    make_certificate,
    neighbour,
    serving,
    until,
)


async def test_over_the_limit_those_that_hold_most_end_with_4006() -> None:
    limits = Limits(max_held_bytes=3_000_000, max_outbox_bytes=8_000_000)
    async with serving(limits=limits) as server, neighbour(server):
        clients = {uid: await RawClient.verified(server, uid) for uid in (7, 8, 9)}
        for uid, size in ((7, 600_000), (8, 6_000_000), (9, 600_000)):
            for _ in range(size // 60_000):
                server.session(uid).send(Blob(bytes(60_000)))
        await until(lambda: server.ended)
        assert server.ended == [(8, CloseCode.SLOW_CONSUMER)]
        assert server.stats.held_bytes <= 3_000_000
        for uid in (7, 9):
            for _ in range(10):
                assert await clients[uid].message() == Blob(bytes(60_000))
        for client in clients.values():
            await client.close()


async def test_what_detached_sessions_hold_counts_too() -> None:
    limits = Limits(max_held_bytes=1_000_000, max_outbox_bytes=900_000)
    async with serving(limits=limits, resume_plain=True) as server:
        for uid in (7, 8):
            client = await ExtendedClient.logged_in(server, uid)
            session = server.session(uid)
            client.reset()
            await until(lambda session=session: session.state.name == "DETACHED")  # type: ignore[misc]
            for _ in range(8 + uid):
                session.send(Blob(bytes(50_000)))
        await until(lambda: server.ended == [(8, CloseCode.SLOW_CONSUMER)])
        assert len(server.sessions) == 1


async def test_what_handlers_have_not_taken_counts_too() -> None:
    server = EchoServer(limits=Limits(max_held_bytes=400_000, max_outbox_bytes=200_000, max_inbox_bytes=300_000))
    gate = asyncio.Event()

    @server.instead(Blob)
    async def slow(session: Session, message: Blob) -> None:
        await gate.wait()

    async with server:
        clients = [await RawClient.verified(server, uid) for uid in (7, 8)]
        for client in clients:
            client.send(frame_of(Blob(bytes(50_000))) * 6)
        await until(lambda: len(server.sessions) == 1)
        gate.set()
        await until(lambda: len(server.ended) == 1)
        assert server.ended[0][1] is CloseCode.SLOW_CONSUMER
        for client in clients:
            await client.close()
        await server.stop(0)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held messages are weighed twenty times a second."""
    monkeypatch.setattr(memory_guard, "INTERVAL", 0.05)


async def test_a_users_slots_are_weighed_together(often: None) -> None:
    """Of four slots each holds less than the neighbour does, but the user holds more."""
    limits = Limits(max_held_bytes=4_000_000, max_outbox_bytes=8_000_000)
    async with serving(limits=limits, resume_plain=True) as server:
        neighbour_ = await RawClient.verified(server, 8)
        clients = [await ExtendedClient.logged_in(server, 7, slot=slot) for slot in range(4)]
        sessions = [server.sessions.get(7, slot) for slot in range(4)]
        for _ in range(25):
            server.session(8).send(Blob(bytes(60_000)))
        for session in sessions:
            assert session is not None
            for _ in range(20):
                session.send(Blob(bytes(60_000)))
        await until(lambda: server.ended)
        assert set(server.ended) == {(7, CloseCode.SLOW_CONSUMER)}
        for _ in range(25):
            assert await neighbour_.message() == Blob(bytes(60_000))
        for client in (*clients, neighbour_):
            await client.close()


async def test_what_sessions_that_have_ended_left_to_slow_handlers_counts_too(often: None) -> None:
    limits = Limits(max_held_bytes=300_000, max_inbox_bytes=4_000_000, max_outbox_bytes=200_000)
    server = EchoServer(limits=limits)
    gate = asyncio.Event()
    taken: list[int] = []

    @server.instead(Blob)
    async def slow(session: Session, message: Blob) -> None:
        taken.append(session.uid)
        await gate.wait()

    async with server:
        small = await RawClient.verified(server, 8)
        small.send(frame_of(Blob(bytes(50_000))) * 3)
        user = server.session(8).user
        await until(lambda: user.bytes == 100_000)
        await until(lambda: server.stats.held_bytes == 100_000)
        left = 1
        while 0 < left < 200_000:  # 150,000 are within the limit; the weighing may come between two sessions
            client = await RawClient.verified(server, 7)
            large = server.session(7)
            client.send(frame_of(Blob(bytes(50_000))) * 4)
            await until(lambda large=large: large.inbox is not None or large.close_code)  # type: ignore[misc]
            await client.close()
            await until(lambda large=large: large.close_code)  # type: ignore[misc]
            left = large.user.bytes
        await until(lambda: not large.user.bytes)
        await until(lambda: server.stats.held_bytes == 100_000)
        gate.set()
        await until(lambda: taken.count(8) == 3, "the bystander lost nothing")
        await small.close()
        await server.stop(0)


async def test_held_bytes_are_weighed_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(TCP, tls) as server:
        in_handshake = await asyncio.open_connection("127.0.0.1", server.endpoints[1].port)
        client = await RawClient.verified(server, 7)
        half = frame_of(Blob(bytes(50_000)))[:30_000]
        client.send(frame_of(Note(1)), half)
        await until(lambda: server.stats.held_bytes == 30_000)
        await client.close()
        await until(lambda: server.stats.held_bytes == 0)
        assert len(server._admission.connections) == 1
        in_handshake[1].close()
        await in_handshake[1].wait_closed()
    assert server.stats.held_bytes == 0


async def test_a_look_costs_idle_sessions_no_memory_and_nothing_of_it_stays(
    often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighed: list[set[int]] = []
    kept: list[weakref.ref[Counter[Any]]] = []
    end_largest = MemoryGuard._end_largest

    def note(guard: MemoryGuard, found: Counter[Any], others: int) -> int:
        weighed.append({holder.uid for holder in found})
        kept.append(weakref.ref(found))
        return end_largest(guard, found, others)

    async with serving() as server:
        idle = [await RawClient.verified(server, uid) for uid in (7, 8)]
        client = await RawClient.verified(server, 9)
        client.send(frame_of(Blob(bytes(50_000)))[:30_000])
        await until(lambda: server.stats.held_bytes == 30_000)
        monkeypatch.setattr(MemoryGuard, "_end_largest", note)
        await until(lambda: len(weighed) >= 4)
        assert set().union(*weighed) == {9}, "whatever other guards there are"
        assert not any(look() is not None for look in kept)
        for each in (*idle, client):
            await each.close()


async def test_an_error_while_weighing_does_not_end_the_weighing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_guard, "INTERVAL", 0.01)
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.0)
    limits = Limits(max_held_bytes=400_000, max_outbox_bytes=8_000_000)
    async with serving(limits=limits) as server, closing(RawClient.verified(server, 7)):
        wrong = property(lambda session: 1 // 0)
        with monkeypatch.context() as patch:
            patch.setattr(Session, "held_bytes", wrong)
            before = tasks.failures["memory guard"]
            await until(lambda: tasks.failures["memory guard"] > before)
        for _ in range(100):
            server.session(7).send(Blob(bytes(60_000)))
        await until(lambda: server.ended == [(7, CloseCode.SLOW_CONSUMER)])
