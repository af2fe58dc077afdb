"""Why a session ended, as its client hears it, and which ends are followed by another attempt, and when."""

import asyncio
from typing import Any

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    ConnectError,
    Limits,
    Session,
    connect,
)
from gatelink.wire.control import GoAway, Hello, control_frame
from gatelink.wire.frames import encode_frame
from tests.e2e.dialling import SOON, Seen, answering, dial
from tests.e2e.support import (
    CATALOG,
    DUPLICATE_LOGIN_FRAME,
    Echo,
    leave,
    serving,
    token_of,
    until,
    verify_succeeded,
)
from tests.support import MS


async def test_a_base_client_whose_server_says_nothing_hears_that_and_not_that_all_was_in_order() -> None:
    for end in ("kick", "close", "a bad message"):
        seen = Seen()
        async with serving() as server:
            session = await dial(server.endpoint, seen)
            if end == "a bad message":
                session.send_frame(encode_frame(CATALOG.of_type(Echo).id, b"no Echo"))
            else:
                getattr(server.session(7), end)()
            await session.wait_closed()
            assert (session.close_code, session.close_reason) == (CloseCode.UNEXPLAINED, "end of stream")
            await until(lambda seen=seen: seen.events == ["verified", "closed 4016"])  # type: ignore[misc]
    session = await dial_and_close()
    assert session.close_code is CloseCode.NORMAL


async def dial_and_close() -> Session:
    """A session that this side closed."""
    async with serving() as server:
        session = await dial(server.endpoint)
        await leave(session)
    return session


@pytest.mark.parametrize("code", [CloseCode.KICKED, CloseCode.REPLACED, CloseCode.PROTOCOL_ERROR, CloseCode.NORMAL])
async def test_a_client_that_is_told_the_end_does_not_dial_again(code: CloseCode) -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen, reconnect=SOON, slot=0)
        server.session(7).close(code)
        await session.wait_closed()
        assert session.close_code is code
        await until(lambda: seen.events == ["verified", f"closed {code:d}"])
        assert server.stats.verified == 1 and len(server.sessions) == 0


async def plainly(endpoint: object, **how: Any) -> Session:
    """As the documentation calls it: nothing that asks for the extension."""
    return await connect(str(endpoint), uid=7, token=token_of(7).decode(), catalog=CATALOG, **how)


async def test_connect_speaks_the_extension_unless_it_is_told_not_to() -> None:
    async with serving() as server:
        session = await plainly(server.endpoint)
        there = server.session(7)
        assert session.extension is not None and there.extension is not None and there.slot == 0
        assert session.requests is not None and session.renewal is not None and session.ticket is None
        await leave(session)
        session = await plainly(server.endpoint, base_protocol=True)
        assert session.extension is None and server.session(7).extension is None
        await leave(session)


async def test_a_client_that_was_kicked_does_not_dial_again_though_nothing_asked_for_the_extension() -> None:
    async with serving() as server:
        session = await plainly(server.endpoint, reconnect=SOON)
        server.session(7).kick("enough")
        await session.wait_closed()
        assert session.close_code is CloseCode.KICKED and session.closed_by_peer
        newer = await plainly(server.endpoint, reconnect=SOON)
        newest = await plainly(server.endpoint)
        await newer.wait_closed()
        assert newer.close_code is CloseCode.REPLACED and server.session(7).close_code is None
        await leave(newest)


async def test_a_server_that_knows_only_the_base_protocol_is_refused_with_a_hint() -> None:
    async with answering(b"", close=True) as endpoint:
        with pytest.raises(ConnectError, match="base_protocol=True"):
            await plainly(endpoint)
        with pytest.raises(ConnectError) as caught:
            await plainly(endpoint, base_protocol=True)
        assert "base_protocol" not in str(caught.value)
    async with answering(verify_succeeded(7)) as endpoint:
        with pytest.raises(ConnectError, match="message 2 where HELLO was due"):
            await plainly(endpoint)
        session = await plainly(endpoint, base_protocol=True, limits=Limits(close_timeout=100 * MS))
        session.abort()


async def test_a_newer_login_that_a_server_tells_at_the_login_is_final() -> None:
    async with answering(DUPLICATE_LOGIN_FRAME) as endpoint:
        with pytest.raises(ConnectError, match="newer login") as caught:
            await dial(endpoint, reconnect=SOON)
        assert caught.value.code is CloseCode.REPLACED


async def test_the_local_code_is_never_sent() -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen, slot=0)
        server.session(7).close(CloseCode.UNEXPLAINED)
        await session.wait_closed()
        assert session.close_code is CloseCode.NORMAL


def test_delays_go_on_where_they_were_for_a_server_that_ends_each_connection_at_once() -> None:
    backoff = Backoff(first=1, most=8, attempts=200)
    assert 0.5 < max(backoff.delays()) <= 8
    for doubled, longest in ((0, 1), (1, 2), (2, 4), (3, 8), (1_000, 8)):
        first = [next(backoff.delays(doubled)) for _ in range(200)]
        assert longest / 2 < max(first) <= longest


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each wait before a dial was doubled already."""
    noted: list[int] = []
    delays = Backoff.delays

    def note(self: Backoff, already: int = 0) -> Any:
        noted.append(already)
        return delays(self, already)

    monkeypatch.setattr(Backoff, "delays", note)
    return noted


async def test_a_session_that_ends_at_once_each_time_waits_longer_each_time(doubled: list[int]) -> None:
    seen = Seen()
    async with answering(verify_succeeded(7), close=True) as endpoint:
        session = await dial(endpoint, seen, reconnect=SOON)
        await until(lambda: len(doubled) >= 5)
        await leave(session)
    assert doubled[:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("within", [0, 1])
async def test_a_server_that_sends_everybody_away_at_once_is_dialled_with_growing_delays(
    doubled: list[int], within: int
) -> None:
    logins = 0

    async def send_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal logins
        logins += 1
        await reader.read(1_000)
        writer.write(control_frame(Hello(features=2)))
        await reader.read(1_000)
        writer.write(verify_succeeded(7) + control_frame(GoAway(within, "")))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(send_away, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    session = await dial(address, reconnect=Backoff(first=40 * MS, most=40_000 * MS), slot=0)
    await until(lambda: len(doubled) >= 4)
    assert doubled[:4] == [0, 1, 2, 3] and logins <= len(doubled) + 1
    session.abort()
    await session.wait_closed()
    server.close()


async def test_a_client_that_is_sent_away_at_once_waits_as_after_a_break() -> None:
    """All clients of a server that says GOAWAY(0) would dial in the same moment otherwise."""
    slow = Backoff(first=3_600, most=3_600)
    async with serving() as server:
        seen = Seen()
        session = await dial(server.endpoint, seen, slot=0, reconnect=slow)
        logged_in_again = asyncio.Event()
        server.on_verified(lambda again: logged_in_again.set())
        assert server.session(7).go_away(0)
        await until(lambda: "suspended" in seen.events)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100 * MS):
                await logged_in_again.wait()
        await leave(session)


async def test_a_server_that_closes_with_a_reason_to_come_again_is_dialled_with_growing_delays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doubled: list[int] = []
    delays = Backoff.delays

    def noted(self: Backoff, already: int = 0) -> Any:
        doubled.append(already)
        return delays(self, already)

    monkeypatch.setattr(Backoff, "delays", noted)
    async with serving() as server:
        server.on_verified(lambda session: session.close(CloseCode.GOING_AWAY))
        session = await dial(server.endpoint, slot=0, reconnect=SOON)
        await until(lambda: len(doubled) >= 4)
        await leave(session)
    assert doubled[:4] == [0, 1, 2, 3]
