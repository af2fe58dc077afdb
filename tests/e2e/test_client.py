"""The connecting side over real sockets: what can go wrong while dialling, and what a session of it hears."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from examples.demo import reserved_ports
from gatelink import (
    CloseCode,
    ConfigError,
    ConnectError,
    Listen,
    SessionClosed,
    connect,
)
from gatelink.net import client as client_module
from gatelink.wire.frames import encode_frame
from tests.e2e.dialling import SOON, Seen, answering, dial
from tests.e2e.support import (
    DUPLICATE_LOGIN_FRAME,
    Echo,
    RawClient,
    frame_of,
    leave,
    make_certificate,
    open_sockets,
    serving,
    until,
    verify_request,
    verify_succeeded,
)
from tests.support import MS

# -- dialling --


async def test_an_address_where_nothing_listens_is_named_with_the_reason() -> None:
    with reserved_ports() as port:
        words = f"tcp://127.0.0.1:{port}: Connection refused; is the server"
        with pytest.raises(ConnectError, match=words) as caught:
            await dial(f"tcp://127.0.0.1:{port}")
    assert caught.value.code is None


async def test_there_is_no_such_host_or_socket(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="no-such-host.invalid:1: (?!Unknown error).+"):
        await dial("tcp://no-such-host.invalid:1")
    with pytest.raises(ConnectError, match="a..b:1: .+"):
        await dial("tcp://a..b:1")
    with pytest.raises(ConnectError, match=r"No such file or directory; is the server running there\?"):
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


@pytest.mark.open_files(3_000)
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
