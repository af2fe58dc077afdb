"""Clients over WebSocket: the same sessions as over TCP, against an independent peer and against ourselves."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from gatelink import CloseCode, ConfigError, ConnectError, Handlers, Limits, Listen, connect
from gatelink.net.client import CLIENT_FEATURES
from gatelink.net.endpoints import parse_endpoint
from gatelink.session.extension import Strength
from gatelink.wire.control import Close, Hello, control_frame, decode_control
from gatelink.wire.frames import CONTROL, FrameDecoder
from tests.e2e.support import (
    CATALOG,
    Echo,
    EchoServer,
    RawClient,
    closing,
    frame_of,
    make_certificate,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.e2e.websocket import BINARY, CLOSE, PING, PONG, WebClient, ws_frame

WS = "ws://127.0.0.1:0"
GATELINK = [Subprotocol("gatelink.1")]


def secured(path: Path) -> tuple[Listen, ssl.SSLContext]:
    certificate, key, context = make_certificate(path)
    return Listen(endpoint="wss://127.0.0.1:0", certificate=certificate, key=key), context


@pytest.fixture(params=["ws", "wss"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def web(scheme: str, path: Path, **settings: Any) -> AsyncIterator[tuple[EchoServer, ssl.SSLContext | None]]:
    """A server with a WebSocket listener, and the client's TLS context; it resumes over ws://, too."""
    listen, tls = secured(path)
    async with serving(listen if scheme == "wss" else WS, resume_plain=True, **settings) as server:
        yield server, tls if scheme == "wss" else None


def dial(server: EchoServer, tls: ssl.SSLContext | None) -> websockets.connect:
    return websockets.connect(str(server.endpoint), subprotocols=GATELINK, ssl=tls, compression=None)


async def received(client: ClientConnection) -> bytes:
    data = await client.recv()
    assert isinstance(data, bytes)
    return data


# -- the independent peer as a client --


async def test_a_base_client_logs_in_and_talks(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            assert client.subprotocol == "gatelink.1"
            await client.send(verify_request(7))
            assert await received(client) == verify_succeeded(7)
            await client.send(frame_of(Echo(1)) + frame_of(Echo(2)))  # several frames in a message
            assert await received(client) == frame_of(Echo(1)) + frame_of(Echo(2))  # one write for one read
            data = frame_of(Echo(3))
            await client.send([data[:1], data[1:5], data[5:]])  # a message in fragments
            assert await received(client) == data
            await client.send(data[:3])  # a frame in two messages
            await client.send(data[3:])
            assert await received(client) == data
            assert server.session(7).address == "127.0.0.1"


async def test_a_ping_is_answered_and_is_not_life(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            await client.send(verify_request(7))
            await received(client)
            heard = server.session(7).last_heard
            await (await client.ping(b"are you there"))
            assert server.session(7).last_heard == heard


async def test_a_large_message_comes_back(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            await client.send(verify_request(7))
            await received(client)
            data = frame_of(Echo(1, "x" * 90_000))
            await client.send(data)
            back = b""
            while len(back) < len(data):
                back += await received(client)
            assert back == data


@pytest.mark.parametrize("code", [CloseCode.KICKED, CloseCode.GOING_AWAY, CloseCode.TOKEN_EXPIRED])
async def test_a_close_code_arrives_in_the_close_frame(scheme: str, tmp_path: Path, code: CloseCode) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            await client.send(verify_request(7))
            await received(client)
            server.session(7).close(code, "the reason")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await client.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == code


async def test_what_is_queued_arrives_before_the_close_frame(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            await client.send(verify_request(7))
            await received(client)
            server.session(7).send(Echo(1))
            server.session(7).close(CloseCode.KICKED)
            assert await received(client) == frame_of(Echo(1))
            with pytest.raises(websockets.ConnectionClosed):
                await client.recv()


async def test_the_close_frame_has_the_code_of_the_close_record(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        async with dial(server, tls) as client:
            await client.send(control_frame(Hello(features=CLIENT_FEATURES)))
            await received(client)
            await client.send(verify_request(7))
            await received(client)
            server.session(7).kick("away")
            decoder = FrameDecoder(1_000, 100, 10_000)
            records = []
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    frames = decoder.feed(await received(client))
                    records += [decode_control(body) for _, flags, body in frames if flags == CONTROL]
            assert Close(CloseCode.KICKED, "away") in records
            assert closed.value.rcvd is not None and closed.value.rcvd.code == CloseCode.KICKED


@pytest.mark.parametrize("tell", ["bad token", "wrong first message", "late"])
async def test_a_refused_login_is_told_why(scheme: str, tmp_path: Path, tell: str) -> None:
    code = {
        "bad token": CloseCode.VERIFY_FAILED,
        "wrong first message": CloseCode.PROTOCOL_ERROR,
        "late": CloseCode.VERIFY_TIMEOUT,
    }[tell]
    limits = Limits(verify_timeout=1.5 if tell == "late" else 30)  # its upgrade is in that time, too
    async with web(scheme, tmp_path, limits=limits) as (server, tls), dial(server, tls) as client:
        if tell != "late":
            await client.send(verify_request(7, b"x" * 32) if tell == "bad token" else frame_of(Echo(1)))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await client.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == code


async def test_a_large_message_may_come_right_behind_the_login(scheme: str, tmp_path: Path) -> None:
    """A base client need not wait for the answer."""
    async with web(scheme, tmp_path) as (server, tls), dial(server, tls) as client:
        data = frame_of(Echo(1, "x" * 60_000))
        await client.send(verify_request(7))
        await client.send(data)
        await client.send(data)
        back = b""
        expected = verify_succeeded(7) + data + data
        while len(back) < len(expected):
            back += await received(client)
        assert back == expected


async def test_a_silent_client_is_told_so(scheme: str, tmp_path: Path) -> None:
    limits = Limits(heartbeat_interval=0.1, heartbeat_timeout=0.3)
    async with web(scheme, tmp_path, limits=limits) as (server, tls), dial(server, tls) as client:
        await client.send(verify_request(7))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                await client.recv()
        assert server.ended == [(7, CloseCode.HEARTBEAT_TIMEOUT)]
    assert closed.value.rcvd is not None and closed.value.rcvd.code == CloseCode.HEARTBEAT_TIMEOUT


async def test_a_client_that_says_close_gets_a_close_frame_with_its_code(scheme: str, tmp_path: Path) -> None:
    async with web(scheme, tmp_path) as (server, tls), dial(server, tls) as client:
        await client.send(control_frame(Hello(features=CLIENT_FEATURES)))
        await received(client)
        await client.send(verify_request(7))
        await received(client)
        await client.send(control_frame(Close(CloseCode.NORMAL, "bye")))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        await until(lambda: server.ended == [(7, CloseCode.NORMAL)])
    assert closed.value.rcvd is not None and closed.value.rcvd.code == CloseCode.NORMAL


async def test_a_client_that_closes_is_answered_with_its_own_code(
    scheme: str,
    tmp_path: Path,
) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        client = await dial(server, tls)
        await client.send(verify_request(7))
        await received(client)
        await client.close(4000)
        assert client.close_code == 4000
        await until(lambda: server.ended == [(7, CloseCode.NORMAL)])


async def test_messages_before_the_close_frame_are_handled(scheme: str, tmp_path: Path) -> None:
    """Also when they wait for another turn of the loop."""
    async with web(scheme, tmp_path) as (server, tls):
        client = await dial(server, tls)
        await client.send(verify_request(7))
        await received(client)
        await client.send(b"".join(frame_of(Echo(n)) for n in range(1_000)))
        handled = 0
        closing = asyncio.create_task(client.close())
        await until(lambda: bool(server.ended))
        await closing
        async for data in client:
            assert isinstance(data, bytes)
            handled += len(FrameDecoder(1_000, 10_000, 1 << 20).feed(data))
        assert server.ended == [(7, CloseCode.NORMAL)]


# -- our own client --


@pytest.mark.parametrize("how", ["base", "extension", "resume", "sealed"])
async def test_connect_dials_a_websocket(scheme: str, tmp_path: Path, how: str) -> None:
    async with web(scheme, tmp_path) as (server, tls):
        got: asyncio.Queue[Echo] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: got.put_nowait(message))
        session = await connect(
            str(server.endpoint),
            uid=7,
            token=token_of(7).decode(),
            tls=tls,
            handlers=handlers,
            catalog=CATALOG,
            base_protocol=how == "base",
            resume=how == "resume",
            server_key=server.public_key if how == "sealed" else None,
        )
        session.send(Echo(1, "x" * 70_000))
        assert (await got.get()).n == 1
        if how == "resume":
            there = server.session(7)
            assert there.extension is not None
            assert there.extension.strength is (Strength.PLAIN if tls is None else Strength.TLS)
            for connection in server.connections:
                connection.abort()
            session.send(Echo(2))
            assert await got.get() == Echo(2)
            assert server.session(7) is there
        session.close()
        await session.wait_closed()


async def test_a_ws_connection_gives_no_ticket_without_resume_plain() -> None:
    async with serving(WS) as server:
        with pytest.raises(ConnectError) as refused:
            await connect(str(server.endpoint), uid=7, token=token_of(7).decode(), resume=True)
        assert refused.value.code is CloseCode.RESUME_REFUSED


async def test_tcp_and_websocket_are_listeners_of_one_server() -> None:
    async with serving(WS, "tcp://127.0.0.1:0") as server:
        web, tcp = server.endpoints
        client = await RawClient.verified(tcp, 1)
        session = await connect(str(web), uid=2, token=token_of(2).decode(), catalog=CATALOG)
        assert len(server.sessions) == 2
        await client.close()
        session.close()
        await session.wait_closed()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot here\n", "HTTP 404 not here"),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nLocation: /\r\n\r\n", "HTTP 301"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAA\r\n\r\n",
            "sec-websocket-accept",
        ),
        (b"", "closed before it answered"),
    ],
)
async def test_connect_says_what_answered_in_place_of_a_gatelink_server(answer: bytes, words: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError, match=words):
            await connect(f"ws://127.0.0.1:{port}", uid=7)


async def test_connect_gives_up_a_server_that_does_not_answer_the_upgrade() -> None:
    ended = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError, match="not verified within"):
            await connect(f"ws://127.0.0.1:{port}", uid=7, timeout=0.2)
        await asyncio.wait_for(ended.wait(), 10)


# -- the independent peer as a server --


async def test_connect_speaks_to_an_independent_server() -> None:
    """It answers as a gatelink server of the base protocol, in fragments and with pings in between."""
    pongs = []

    async def talk(socket: ServerConnection) -> None:
        assert socket.request is not None and socket.request.path == "/gates/1?zone=2"
        assert await socket.recv() == verify_request(7)
        pongs.append(await socket.ping(b"?"))
        data = verify_succeeded(7)
        await socket.send([data[:2], data[2:3], data[3:]])
        async for message in socket:
            assert isinstance(message, bytes)
            await pongs[0]
            await socket.send(message)

    got: asyncio.Queue[Echo] = asyncio.Queue()
    handlers = Handlers(CATALOG)
    handlers.on(Echo)(lambda session, message: got.put_nowait(message))
    async with serve(talk, "127.0.0.1", 0, subprotocols=GATELINK, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        session = await connect(
            f"ws://127.0.0.1:{port}/gates/1?zone=2",
            uid=7,
            token=token_of(7).decode(),
            base_protocol=True,
            handlers=handlers,
            catalog=CATALOG,
        )
        session.send(Echo(5))
        assert await got.get() == Echo(5)
        session.close()
        await session.wait_closed()


# -- listeners --


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        (Listen(endpoint="wss://127.0.0.1:0"), "certificate"),
        (Listen(endpoint="tcp://127.0.0.1:0", origins=("https://a.example",)), "origins"),
        (Listen(endpoint=WS, origins=("a.example",)), "https://play.example.com"),
        (Listen(endpoint=WS, origins=("https://a.example/path",)), "without a path"),
        (Listen(endpoint=WS, tls="terminated"), "proxies"),
        (Listen(endpoint="tcp://127.0.0.1:0", tls="terminated", proxies=("127.0.0.1",)), "ws://"),
        (Listen(endpoint="ws://127.0.0.1:0/path"), "without one"),
    ],
)
async def test_a_listener_that_can_t_work_says_how_to_mend_it(listen: Listen, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        async with serving(listen):
            pass


def test_endpoints_of_websockets_have_paths_and_usual_ports() -> None:
    assert str(parse_endpoint("wss://play.example.com/gate-1")) == "wss://play.example.com:443/gate-1"
    assert str(parse_endpoint("ws://[::1]/")) == "ws://[::1]:80"
    for wrong in ("wss://play.example.com/a b", "wss://play.example.com/#top", "wss:///path", "ws://u@host/"):
        with pytest.raises(ConfigError):
            parse_endpoint(wrong)


async def test_features_over_websocket_are_those_over_tcp() -> None:
    offer = control_frame(Hello(features=0xFFFF))
    async with serving(WS, "tcp://127.0.0.1:0") as server:
        web, tcp = server.endpoints
        async with WebClient.upgraded(web) as client, closing(RawClient.open(tcp)) as other:
            client.send(ws_frame(BINARY, offer))
            other.send(offer)
            _, payload = await client.frame()
            assert FrameDecoder(1_000).feed(payload) == [await other.frame()]


async def test_a_pong_goes_out_while_the_login_is_due() -> None:
    async with serving(WS) as server, WebClient.upgraded(server.endpoint) as client:
        client.send(ws_frame(PING, b"a"))
        assert await client.frame() == (PONG, b"a")
        client.send(ws_frame(CLOSE, b"\x03\xe8"))
        assert await client.frame() == (CLOSE, b"\x03\xe8")
