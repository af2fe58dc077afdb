"""The connecting side over real sockets: what can go wrong while dialling, and what a reconnecting session does."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    ConfigError,
    ConnectError,
    GatelinkError,
    Handlers,
    Limits,
    Listen,
    MemoryTokens,
    ServerKey,
    Session,
    SessionClosed,
    StaticTokens,
    connect,
)
from gatelink.net import client as client_module
from gatelink.net.dialer import TokenSource
from gatelink.session.control_frames import control_frame
from gatelink.testing import ChaosProxy
from gatelink.wire.control import GoAway, Hello
from gatelink.wire.frames import encode_frame
from tests.e2e.support import (
    CATALOG,
    DUPLICATE_LOGIN_FRAME,
    Echo,
    Note,
    RawClient,
    frame_of,
    leave,
    make_certificate,
    open_sockets,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.support import MS

SOON = Backoff(first=10 * MS, most=20 * MS, attempts=200)


class Seen:
    """A table that remembers what a session hears."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.echoes: asyncio.Queue[int] = asyncio.Queue()
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: self.echoes.put_nowait(message.n))
        handlers.on_verified(lambda session: self.events.append("verified"))
        handlers.on_suspended(lambda session: self.events.append("suspended"))
        handlers.on_resumed(lambda session: self.events.append("resumed"))
        handlers.on_closed(lambda session: self.events.append(f"closed {session.close_code:d}"))


async def dial(
    endpoint: object,
    seen: Seen | None = None,
    *,
    uid: int = 7,
    token: bytes | TokenSource | None = None,
    timeout: float = 20_000 * MS,  # noqa: ASYNC109
    reconnect: Backoff | None = None,
    tls: ssl.SSLContext | None = None,
    slot: int | None = None,
    resume: bool = False,
    server_key: bytes | None = None,
) -> Session:
    return await connect(
        str(endpoint),
        uid=uid,
        token=token if callable(token) else (token or token_of(uid)).decode("utf-8", "surrogateescape"),
        handlers=(seen or Seen()).handlers,
        timeout=timeout,
        reconnect=reconnect,
        tls=tls,
        slot=slot,
        resume=resume,
        server_key=server_key,
        catalog=CATALOG,
        limits=Limits(close_timeout=100 * MS),  # what a server that does not close may take
    )


@asynccontextmanager
async def answering(data: bytes, close: bool = False) -> AsyncIterator[str]:
    """The endpoint of a listener that answers every connection with `data`, and may close it."""
    writers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(data)
        if close:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield "tcp://127.0.0.1:%d" % server.sockets[0].getsockname()[1]  # noqa: UP031
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


# -- dialling --


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ConnectError, match=f"tcp://127.0.0.1:{port}: Connection refused") as caught:
        await dial(f"tcp://127.0.0.1:{port}")
    assert caught.value.code is None


async def test_there_is_no_such_host_or_socket(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="no-such-host.invalid:1: (?!Unknown error).+"):
        await dial("tcp://no-such-host.invalid:1")
    with pytest.raises(ConnectError, match="a..b:1: .+"):
        await dial("tcp://a..b:1")
    with pytest.raises(ConnectError, match="No such file or directory"):
        await dial(f"unix://{tmp_path}/gate.sock")


async def test_an_endpoint_or_tls_context_that_makes_no_sense_is_a_config_error() -> None:
    with pytest.raises(ConfigError):
        await dial("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="tls://"):
        await dial("tcp://127.0.0.1:1", tls=ssl.create_default_context())


@pytest.mark.parametrize(
    "who", [{"uid": -1}, {"uid": 2**64}, {"token": b"secret"}, {"token": "secret" * 20_000}, {"source": 256}]
)
async def test_a_login_that_no_message_can_say_is_a_config_error(
    who: dict[str, Any],
) -> None:
    field = next(iter(who))
    with pytest.raises(ConfigError, match=rf"invalid login request: ClientVerifyRequest\.{field} ") as caught:
        await connect("tcp://127.0.0.1:1", **{"uid": 7, "token": "", **who})
    assert "secret" not in str(caught.value)


async def test_a_silent_server_is_given_up_in_time() -> None:
    async with answering(b"") as endpoint:
        with pytest.raises(ConnectError, match="not verified within") as caught:
            await dial(endpoint, timeout=100 * MS)
    assert caught.value.code is CloseCode.VERIFY_TIMEOUT


async def test_a_wrong_token_says_so() -> None:
    async with serving() as server:
        with pytest.raises(ConnectError, match="the server refused the token") as caught:
            await dial(server.endpoint, token=b"wrong")
        assert caught.value.code is CloseCode.VERIFY_FAILED
        await until(lambda: not server._admission.connections)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", CloseCode.PROTOCOL_ERROR),
        (b"\xff\xff\xff\x00", CloseCode.FRAME_TOO_LARGE),
        (encode_frame(11_001, b""), CloseCode.PROTOCOL_ERROR),
        (encode_frame(2, b"short"), CloseCode.PROTOCOL_ERROR),
        (encode_frame(2, b"\xff" * 30, 1), CloseCode.PROTOCOL_ERROR),
        (verify_succeeded(8), CloseCode.PROTOCOL_ERROR),
    ],
    ids=["http", "too-large", "wrong-message", "truncated", "not-snappy", "other-uid"],
)
async def test_a_server_that_answers_nonsense_is_left_with_a_reason(answer: bytes, code: CloseCode) -> None:
    async with answering(answer) as endpoint:
        with pytest.raises(ConnectError) as caught:
            await dial(endpoint)
    assert caught.value.code is code


async def test_a_server_that_just_closes_is_an_error() -> None:
    async with answering(b"", close=True) as endpoint:
        with pytest.raises(ConnectError, match="closed the connection before it verified us"):
            await dial(endpoint)


async def test_tls_is_verified_and_says_what_is_wrong(tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(tls) as server:
        with pytest.raises(ConnectError, match="certificate verify failed"):
            await dial(server.endpoint)
        assert server.stats.verified == 0


async def test_tls_with_a_server_that_has_none(tmp_path: Path) -> None:
    async with serving() as server:
        with pytest.raises(ConnectError, match=r"tls://127.0.0.1:\d+: .+"):
            await dial(f"tls://127.0.0.1:{server.endpoint.port}")
    async with answering(b"") as endpoint:
        with pytest.raises(ConnectError, match="not verified within"):
            await dial(endpoint.replace("tcp", "tls"), timeout=100 * MS)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_connect_cancelled_at_any_moment_leaves_nothing(scheme: str, tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    listen = (
        Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
        if scheme == "tls"
        else "tcp://127.0.0.1:0"
    )
    async with serving(listen) as server:
        warm = await dial(server.endpoint, tls=context if scheme == "tls" else None)  # what stays open once
        warm.close()
        await warm.wait_closed()
        await until(lambda: not server._admission.connections)
        before = open_sockets()
        done = False
        steps = 0
        while not done:
            steps += 1
            task = asyncio.create_task(dial(server.endpoint, tls=context if scheme == "tls" else None))
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                done = True
                await leave(task.result())
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert steps > 3
        await until(lambda: not server._admission.connections and not server.logins)
        await until(lambda: open_sockets() == before)
        assert len(server.sessions) == 0


async def test_contexts_of_closed_loops_are_forgotten() -> None:
    async with serving() as server:
        session = await dial(server.endpoint)
        await leave(session)
    assert [loop for loop in client_module._contexts if loop.is_closed()] == []


# -- the session --


async def test_what_comes_right_behind_the_answer_is_heard_in_order() -> None:
    seen = Seen()
    async with answering(verify_succeeded(7) + b"".join(frame_of(Echo(n)) for n in range(600))) as endpoint:
        session = await dial(endpoint, seen)
        assert [await seen.echoes.get() for _ in range(600)] == list(range(600))
        assert seen.events == ["verified"]
        session.abort()
        await session.wait_closed()
        await until(lambda: seen.events == ["verified", "closed 4000"])


async def test_without_reconnect_a_break_ends_the_session() -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen)
        server.session(7).abort()
        await session.wait_closed()
        with pytest.raises(SessionClosed):
            session.send(Echo(1))
        await until(lambda: seen.events[1:] in (["closed 4016"], ["closed 4011"]))


async def test_a_newer_login_elsewhere_ends_the_session_for_good() -> None:
    seen = Seen()
    async with serving() as server:
        session = await dial(server.endpoint, seen, reconnect=SOON)
        newer = await RawClient.verified(server, 7)
        await session.wait_closed()
        assert session.close_code is CloseCode.REPLACED
        await until(lambda: seen.events == ["verified", "closed 4003"])
        await newer.echo(1)
        assert server.stats.verified == 2
        await newer.close()


async def test_garbage_from_the_server_ends_the_session_with_its_code() -> None:
    async with answering(verify_succeeded(7) + b"\x00\x00\x00\x77") as endpoint:
        session = await dial(endpoint, reconnect=SOON)
        await session.wait_closed()
        assert session.close_code is CloseCode.PROTOCOL_ERROR


async def test_messages_of_the_framework_that_a_server_does_not_send_end_the_session() -> None:
    for frame in (encode_frame(1, b""), encode_frame(3, b""), encode_frame(100, b"")):
        async with answering(verify_succeeded(7) + frame) as endpoint:
            session = await dial(endpoint)
            await session.wait_closed()
            assert session.close_code is CloseCode.PROTOCOL_ERROR
    async with answering(verify_succeeded(7) + DUPLICATE_LOGIN_FRAME) as endpoint:
        session = await dial(endpoint, reconnect=SOON)
        await session.wait_closed()
        assert session.close_code is CloseCode.REPLACED


# -- reconnecting --


async def test_a_broken_session_is_suspended_then_resumed_and_what_was_sent_meanwhile_arrives_in_order() -> None:
    seen = Seen()
    async with serving() as server, ChaosProxy(("127.0.0.1", server.endpoint.port)) as proxy:
        session = await dial("tcp://%s:%d" % proxy.address, seen, reconnect=SOON)  # noqa: UP031
        for round in range(5):
            proxy.refuse(50 * MS)
            proxy.cut_all()
            await until(lambda: seen.events[-1] == "suspended")
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


async def test_a_thousand_sessions_dial_at_once() -> None:
    async with serving() as server:
        sessions = await asyncio.gather(*(dial(server.endpoint, uid=uid) for uid in range(1, 1_001)))
        assert len(server.sessions) == 1_000
        for session in sessions:
            session.close()
        await asyncio.gather(*(session.wait_closed() for session in sessions))
        await until(lambda: len(server.ended) == 1_000)
        assert len(server.sessions) == 0


async def test_request_bytes_are_the_originals() -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait(await reader.readexactly(len(verify_request(7))))
        writer.transport.abort()

    listener = await asyncio.start_server(hear, "127.0.0.1", 0)
    with pytest.raises(ConnectError):
        await dial("tcp://127.0.0.1:%d" % listener.sockets[0].getsockname()[1])  # noqa: UP031
    assert await received.get() == verify_request(7)
    listener.close()


# -- why it ended, as a client hears it --


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


async def test_a_session_that_ends_at_once_each_time_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled: list[int] = []
    delays = Backoff.delays

    def noted(self: Backoff, already: int = 0) -> Any:
        doubled.append(already)
        return delays(self, already)

    monkeypatch.setattr(Backoff, "delays", noted)
    seen = Seen()
    async with answering(verify_succeeded(7), close=True) as endpoint:
        session = await dial(endpoint, seen, reconnect=SOON)
        await until(lambda: len(doubled) >= 5)
        await leave(session)
    assert doubled[:5] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("within", [0, 1])
async def test_a_server_that_sends_everybody_away_at_once_is_dialled_with_growing_delays(
    monkeypatch: pytest.MonkeyPatch, within: int
) -> None:
    doubled: list[int] = []
    delays = Backoff.delays

    def noted(self: Backoff, already: int = 0) -> Any:
        doubled.append(already)
        return delays(self, already)

    monkeypatch.setattr(Backoff, "delays", noted)
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


# -- a fresh token for each login --


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_token_can_be_a_function_that_gives_a_fresh_one_for_each_login(is_async: bool) -> None:
    seen, tokens, asked = Seen(), MemoryTokens(single_use=True), 0

    def give() -> str:
        nonlocal asked
        asked += 1
        return tokens.issue(7)

    async def give_later() -> str:
        await asyncio.sleep(0)
        return give()

    async with serving(tokens=tokens) as server:
        session = await dial(server.endpoint, seen, token=give_later if is_async else give, reconnect=SOON)
        for round in range(1, 4):
            server.session(7).abort()
            await until(lambda round=round: seen.events[1:] == ["suspended", "resumed"] * round)  # type: ignore[misc]
        assert asked == 4
        await leave(session)


async def test_a_resume_asks_for_no_token() -> None:
    seen, asked = Seen(), 0

    def give() -> str:
        nonlocal asked
        asked += 1
        return token_of(7).decode()

    key = ServerKey.generate()
    async with serving(keys=[key]) as server:
        session = await dial(server.endpoint, seen, token=give, reconnect=SOON, resume=True, server_key=key.public)
        next(iter(server._admission.connections)).transport.abort()
        await until(lambda: seen.events == ["verified", "suspended", "resumed"])
        assert asked == 1
        await leave(session)


class Refused(GatelinkError): ...


@pytest.mark.parametrize(
    "raised, words",
    [
        (Refused("the login said 403"), "Refused: the login said 403"),
        (ValueError("hunter2"), "ValueError"),
        (SystemExit(1), "SystemExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_a_token_function_that_fails_is_a_failed_attempt(raised: BaseException, words: str) -> None:
    seen, fails, asked = Seen(), True, 0

    def give() -> str:
        nonlocal asked
        asked += 1
        if fails:
            raise raised
        return token_of(7).decode()

    async with serving() as server:
        with pytest.raises(ConnectError, match=f"no token.*{words}") as caught:
            await dial(server.endpoint, token=give)
        assert "hunter2" not in str(caught.value) and caught.value.__cause__ is raised
        assert server.stats.accepted == 0, "nothing was dialled"
        fails = False
        session = await dial(server.endpoint, seen, token=give, reconnect=SOON)
        fails, asked = True, 0
        server.session(7).abort()
        await until(lambda: asked >= 3)
        fails = False
        await until(lambda: seen.events == ["verified", "suspended", "resumed"])
        await leave(session)


@pytest.mark.parametrize("given", [None, b"secret", 7, "secret" * 20_000])
async def test_a_token_function_that_gives_no_token_is_a_failed_attempt_that_shows_nothing_of_it(given: Any) -> None:
    with pytest.raises(ConnectError, match="must give a str") as caught:
        await dial("tcp://127.0.0.1:1", token=lambda: given)
    assert "secret" not in str(caught.value)


async def test_a_token_function_has_the_time_of_the_dial_and_can_be_cancelled() -> None:
    ended = asyncio.Event()

    async def never() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    with pytest.raises(ConnectError, match="not verified within"):
        await dial("tcp://127.0.0.1:1", token=never, timeout=20 * MS)
    assert ended.is_set()
    dialling = asyncio.create_task(dial("tcp://127.0.0.1:1", token=never))
    await asyncio.sleep(0)
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling


async def test_the_end_of_its_token_is_on_the_session() -> None:
    tokens = MemoryTokens(lifetime=3_600)
    issued = time.time()
    async with serving(tokens=tokens) as server:
        session = await dial(server.endpoint, token=lambda: tokens.issue(7))
        expires_at = server.session(7).expires_at
        assert expires_at is not None and issued + 3_600 <= expires_at <= time.time() + 3_600
        assert session.expires_at is None
        await leave(session)
    async with serving() as server:
        session = await dial(server.endpoint)
        assert server.session(7).expires_at is None
        await leave(session)
