"""How large one message may be, for each receiver; and that no message ends the session of a peer that reads."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gatelink import Full, Handlers, Limits, LocalError, MessageTooLarge, connect
from tests.e2e.support import CATALOG, Blob, Note, RawClient, closing, frame_of, serving, token_of, until

LARGEST = 100_000
LIMITS = Limits(max_outbox_bytes=LARGEST, max_frame=200_000)
HEAD = 6


@pytest.mark.parametrize("waiting", [0, 1, 500])
@pytest.mark.parametrize("full", Full)
async def test_a_message_over_the_limit_raises_whatever_is_queued_and_nobody_is_closed(
    waiting: int, full: Full
) -> None:
    async with serving(limits=LIMITS) as server, closing(RawClient.verified(server, 7)) as client:
        session = server.session(7)
        session.join("red")
        too_large = Blob(LARGEST - HEAD + 1)
        calls: list[Callable[[], Any]] = [
            partial(session.send, too_large, full=full),
            partial(session.send, too_large, full=full, key=1),
            partial(session.send_raw, 11_002, bytes(too_large), full=full),
            partial(session.send_frame, frame_of(too_large), 0, full),
            partial(server.broadcast, too_large, full=full),
            partial(server.broadcast_to, "red", too_large, full=full),
            partial(server.broadcast_to, "nobody is here", too_large, full=full),
            partial(server.sessions.broadcast, too_large, [], full=full),
        ]
        for n in range(waiting):
            session.send(Note(n))
        for call in calls:
            with pytest.raises(MessageTooLarge, match=f"{LARGEST + 1} bytes; one message has at most {LARGEST}"):
                call()
        for uid in (7, 8):
            with pytest.raises(MessageTooLarge):
                await server.sessions.push(uid, too_large)
        session.send(Note(-1))
        for n in (*range(waiting), -1):
            assert await client.message() == Note(n)
        assert session.close_code is None and session.outbox.dropped == 0


async def test_many_messages_in_one_turn_end_no_session_whose_peer_reads() -> None:
    """Ten of the largest at once: the queue has room for one, the socket takes the others meanwhile."""
    async with serving(limits=LIMITS) as server:
        heard: list[int] = []
        done = asyncio.Event()
        handlers = Handlers(CATALOG)
        handlers.on(Blob)(lambda session, message: heard.append(message[0]))
        handlers.on(Note)(lambda session, message: done.set())
        client = await connect(
            str(server.endpoint), uid=7, token=token_of(7).decode(), handlers=handlers, catalog=CATALOG
        )
        session = server.session(7)
        for n in range(10):
            for _ in range(2):
                session.send(Blob(bytes([n]) * (LARGEST // 2 - HEAD)))
            if not n % 2:
                await session.drain()
        session.send(Note(1))
        await done.wait()
        assert heard == [n for n in range(10) for _ in range(2)] and session.close_code is None
        client.abort()


async def test_a_broadcast_to_a_group_reaches_its_members_and_no_name_reaches_everybody() -> None:
    async with serving() as server:
        clients = [await RawClient.verified(server, uid) for uid in (1, 2, 3)]
        for uid in (1, 2):
            server.session(uid).join("red")
        server.broadcast_to("red", Note(1))
        server.broadcast_to("blue", Note(2))
        wrong: tuple[Any, ...] = ("", "x" * 256, 5, b"red")
        for name in wrong:
            with pytest.raises(LocalError, match="group's name"):
                server.broadcast_to(name, Note(3))
            with pytest.raises(LocalError, match="group's name"):
                server.session(1).join(name)
        with pytest.raises(TypeError):
            server.broadcast(Note(3), "")  # type: ignore[arg-type, call-arg]
        server.broadcast(Note(4))
        for client, notes in zip(clients, ([1, 4], [1, 4], [4]), strict=True):
            assert [await client.message() for _ in notes] == [Note(n) for n in notes]
            await client.close()
        await until(lambda: not len(server.sessions))
