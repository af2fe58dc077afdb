"""A session of `connect(reconnect=...)` whose connection breaks: what it sends meanwhile, and when it gives up."""

import asyncio

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    Limits,
    SessionClosed,
    StaticTokens,
    connect,
)
from gatelink.testing import ChaosProxy
from tests.e2e.dialling import SOON, Seen, dial
from tests.e2e.support import (
    CATALOG,
    Echo,
    Note,
    leave,
    serving,
    token_of,
    until,
)
from tests.support import MS


async def test_a_broken_session_is_suspended_then_resumed_and_what_was_sent_meanwhile_arrives_in_order() -> None:
    seen = Seen()
    async with serving() as server, ChaosProxy(("127.0.0.1", server.endpoint.port)) as proxy:
        session = await dial("tcp://%s:%d" % proxy.address, seen, reconnect=SOON)  # noqa: UP031
        for round in range(5):
            proxy.refuse(50 * MS)
            proxy.cut_all()
            await until(lambda round=round: seen.events.count("suspended") == round + 1)  # type: ignore[misc]
            for n in range(10):
                session.send(Echo(10 * round + n))
            assert [await seen.echoes.get() for _ in range(10)] == list(range(10 * round, 10 * round + 10))
        assert seen.events == ["verified"] + ["suspended", "resumed"] * 5
        await leave(session)
        await until(lambda: seen.events[-1] == "closed 4000")


async def test_it_gives_up_after_its_attempts() -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen, reconnect=Backoff(first=5 * MS, most=5 * MS, attempts=3))
        await server.stop(0)
        await session.wait_closed()
        assert session.close_code is CloseCode.GOING_AWAY and "3 attempts" in session.close_reason
        await until(lambda: seen.events == ["verified", "suspended", "closed 4011"])


async def test_it_comes_back_to_a_server_that_restarts_and_after_a_kick() -> None:
    seen = Seen()
    async with serving() as server:
        server.listen = (str(server.endpoint),)
        session = await dial(server.endpoint, seen, reconnect=SOON)
        await server.stop()
        await server.start()
        await until(lambda: seen.events == ["verified", "suspended", "resumed"])
        server.session(7).kick()  # a base client is not told why
        await until(lambda: seen.events == ["verified"] + ["suspended", "resumed"] * 2)
        session.send(Echo(1))
        assert await seen.echoes.get() == 1
        await leave(session)


async def test_a_token_that_is_no_longer_good_ends_it() -> None:
    seen = Seen()
    tokens = {7: token_of(7)}
    async with serving(tokens=StaticTokens(tokens.__getitem__)) as server:
        session = await dial(server.endpoint, seen, reconnect=SOON)
        tokens[7] = b"new"
        server.session(7).kick()
        await session.wait_closed()
        assert session.close_code is CloseCode.VERIFY_FAILED
        await until(lambda: seen.events == ["verified", "suspended", "closed 4001"])


@pytest.mark.parametrize("how", ["close", "abort", "kick"])
async def test_a_suspended_session_can_be_closed(how: str) -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen, reconnect=Backoff(first=60.0, most=60.0))
        server.session(7).abort()
        await until(lambda: "suspended" in seen.events)
        session.send(Echo(1))
        drained = asyncio.create_task(session.drain())
        await asyncio.sleep(0)
        getattr(session, how)()
        await session.wait_closed()
        with pytest.raises(SessionClosed):
            await drained
        await until(lambda: seen.events[-1].startswith("closed"))
        assert server.stats.verified == 1


async def test_a_session_closed_while_it_dials_again_leaves_nothing() -> None:
    seen = Seen()
    async with serving() as server, ChaosProxy(("127.0.0.1", server.endpoint.port)) as proxy:
        session = await dial("tcp://%s:%d" % proxy.address, seen, reconnect=SOON)  # noqa: UP031
        proxy.pause()
        server.session(7).abort()
        proxy.cut_all()
        await until(lambda: proxy.connections > 1)  # dialled, and not answered
        await leave(session)
        proxy.resume()
        await until(lambda: not server._admission.connections)
        assert len(server.sessions) == 0


async def test_what_waits_for_a_suspended_session_is_bounded() -> None:
    seen = Seen()
    async with serving() as server:
        session = await connect(
            str(server.endpoint),
            uid=7,
            token=token_of(7).decode(),
            handlers=seen.handlers,
            reconnect=Backoff(first=60.0, most=60.0),
            catalog=CATALOG,
            limits=Limits(max_outbox_frames=10),
        )
        server.session(7).abort()
        await until(lambda: "suspended" in seen.events)
        with pytest.raises(SessionClosed, match="4006"):
            for n in range(11):
                session.send(Note(n))
        assert session.close_code is CloseCode.SLOW_CONSUMER
        await session.wait_closed()
