"""Bad input over WebSocket: a defined end for each, and nobody else suffers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gatelink import CloseCode, Limits, Listen
from gatelink.net.step_queue import STEPS_A_TURN, StepQueue
from gatelink.net.upgrade import MAX_HEAD, Upgrade
from gatelink.net.websocket import SMALL_BURST
from tests.e2e.support import Echo, EchoServer, frame_of, serving, until, verify_request, verify_succeeded
from tests.e2e.websocket import ACCEPT, BINARY, CLOSE, PING, TEXT, WebClient, request, ws_frame

WS = "ws://127.0.0.1:0"
ORIGIN = "https://play.example.com"


@contextlib.asynccontextmanager
async def with_origins() -> AsyncIterator[EchoServer]:
    async with serving(Listen(endpoint=WS, origins=(ORIGIN,)), limits=Limits(close_timeout=0.5)) as server:
        yield server


# -- the request --


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 426, id="plain GET"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, id="health"),
        pytest.param(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, id="health, HEAD"),
        pytest.param(b"GET /healthz?x HTTP/1.0\r\n\r\n", 200, id="health, HTTP/1.0"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, id="POST"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2 preface"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400, id="TLS ClientHello"),
        pytest.param(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + request(), 400, id="PROXY header of no proxy"),
        pytest.param(verify_request(7), 400, id="frames without an upgrade"),
        pytest.param(request("Cookie: " + "a" * 65_536), 431, id="64 KiB of headers"),
        pytest.param(b"GET /" + b"a" * 65_536, 431, id="64 KiB of target"),
        pytest.param(request("A: b\r\n c", "x"), 400, id="a line without a colon"),
        pytest.param(request(without="Host"), 400, id="no Host"),
        pytest.param(request("Host: b"), 400, id="two Hosts"),
        pytest.param(request(without="Upgrade"), 426, id="no Upgrade"),
        pytest.param(request(without="Connection"), 426, id="no Connection"),
        pytest.param(request("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426, id="version 8"),
        pytest.param(request(without="Sec-WebSocket-Version"), 426, id="no version"),
        pytest.param(request(without="Sec-WebSocket-Key"), 400, id="no key"),
        pytest.param(request("Sec-WebSocket-Key: AAAA", without="Sec-WebSocket-Key"), 400, id="short key"),
        pytest.param(request("Sec-WebSocket-Key: *", without="Sec-WebSocket-Key"), 400, id="key not base64"),
        pytest.param(request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, id="two keys"),
        pytest.param(request(without="Sec-WebSocket-Protocol"), 400, id="no subprotocol"),
        pytest.param(
            request("Sec-WebSocket-Protocol: mqtt", without="Sec-WebSocket-Protocol"), 400, id="other subprotocol"
        ),
        pytest.param(request("Origin: https://evil.example"), 403, id="wrong origin"),
        pytest.param(request("Origin: null"), 403, id="null origin"),
        pytest.param(request(f"Origin: {ORIGIN}", f"Origin: {ORIGIN}"), 403, id="two origins"),
        pytest.param(request(f"Origin: {ORIGIN}.evil.example"), 403, id="origin with a tail"),
        pytest.param(request() + request(), 400, id="pipelined requests"),
        pytest.param(request() + ws_frame(BINARY, verify_request(7)), 400, id="frames before the answer"),
        pytest.param(request("Content-Length: 3") + b"abc", 400, id="a body"),
        pytest.param(request("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, id="an empty chunked body"),
    ],
)
async def test_a_wrong_request_gets_its_status_and_the_end(data: bytes, status: int) -> None:
    async with with_origins() as server:
        async with WebClient.open(server.endpoint) as client:
            client.send(data)
            seen, text = await client.response()
            assert seen == status, text
            assert b"\r\nConnection: close\r\n" in text
            assert text.endswith(b"\r\n\r\n") is data.startswith(b"HEAD ")  # else one sentence
        await until(lambda: not server.connections)
        assert not len(server.sessions)


async def test_a_request_may_come_byte_by_byte() -> None:
    async with with_origins() as server:
        async with WebClient.open(server.endpoint) as client:
            for byte in request(f"Origin: {ORIGIN.upper()}"):
                client.send(bytes((byte,)))
                await asyncio.sleep(0)
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ") and ACCEPT in head
            assert b"Sec-WebSocket-Protocol: gatelink.1\r\n" in head and b"Extensions" not in head


async def test_an_offer_of_compression_is_not_taken() -> None:
    async with with_origins() as server:
        async with WebClient.open(server.endpoint) as client:
            client.send(request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"101" in head and b"deflate" not in head


async def test_a_request_that_stops_meets_the_deadline() -> None:
    async with serving(WS, limits=Limits(verify_timeout=0.2)) as server, WebClient.open(server.endpoint) as client:
        client.send(request()[:-2])
        assert (await client.response())[0] == 408


async def test_a_refused_client_that_stays_is_cut_off() -> None:
    limits = Limits(close_timeout=0.2)
    async with serving(WS, limits=limits) as server, WebClient.open(server.endpoint) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.response()
        await until(lambda: not server.connections)


@pytest.mark.parametrize(
    ("data", "is_fault"),
    [
        pytest.param(verify_request(7), True, id="no HTTP"),
        pytest.param(request("Cookie: " + "a" * 65_536), True, id="64 KiB of headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", False, id="a browser"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", False, id="a health check"),
        pytest.param(request("Origin: https://evil.example"), False, id="a page of another origin"),
    ],
)
async def test_a_request_that_can_t_be_read_counts_as_a_failure_of_its_address(data: bytes, is_fault: bool) -> None:
    async with serving(WS, limits=Limits(exempt=(), free_failures=2)) as server:
        for _ in range(3):
            assert server.stats.bans == 0
            async with WebClient.open(server.endpoint) as client:
                client.send(data)
                await client.response()
        assert server.stats.bans == is_fault


async def test_a_crowd_of_requests_gets_its_share_of_a_turn_and_all_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn = 0
    steps: Counter[int] = Counter()  # by turn of the loop
    go_on = Upgrade.go_on

    def counted(upgrade: Upgrade) -> None:
        steps[turn] += 1
        go_on(upgrade)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Upgrade, "go_on", counted)
    async with serving(WS) as server, contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(WebClient.open(server.endpoint)) for _ in range(200)]
        await until(lambda: len(server.connections) == len(crowd))
        counting = asyncio.create_task(count_turns())
        for number, client in enumerate(crowd):
            client.send(request() if number % 2 else b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for number, client in enumerate(crowd):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 " if number % 2 else b"HTTP/1.1 426 "), (number, head)
        counting.cancel()
        assert steps.total() == len(crowd) and max(steps.values()) <= STEPS_A_TURN


async def test_a_crowd_that_waits_for_its_turn_may_leave_or_meet_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepQueue, "enter", lambda queue, check: (queue._late.setdefault(check), check.wait()))
    async with serving(WS, limits=Limits(verify_timeout=1.0, close_timeout=0.5)) as server:
        async with WebClient.open(server.endpoint) as stays, WebClient.open(server.endpoint) as leaves:
            for client in (stays, leaves):
                client.send(request())
            waiting = server._client_frontend().admission.steps._late
            await until(lambda: len(waiting) == 2)
            leaves.writer.transport.abort()
            assert (await stays.response())[0] == 408
            await until(lambda: not server.connections and not waiting)


async def test_requests_count_as_unverified_connections() -> None:
    """The oldest makes room for a client that comes to log in."""
    async with serving(WS, limits=Limits(max_unverified=2, exempt=("127.0.0.1",))) as server:
        async with WebClient.open(server.endpoint) as first, WebClient.open(server.endpoint) as second:
            await until(lambda: len(server.connections) == 2)
            async with WebClient.upgraded(server.endpoint) as client:
                client.send(ws_frame(BINARY, verify_request(7)))
                assert await client.frame() == (BINARY, verify_succeeded(7))
                assert await first.reader.read() == b""
                assert not second.reader.at_eof()


async def test_a_server_that_stops_leaves_no_request_behind() -> None:
    async with serving(WS) as server:
        async with WebClient.open(server.endpoint) as client:
            await until(lambda: len(server.connections) == 1)
            await server.stop(0)
            assert await client.reader.read() == b""


# -- frames --

LOGIN = ws_frame(BINARY, verify_request(7))

BAD_FRAMES = [
    pytest.param(ws_frame(TEXT, b"hello"), 1003, id="text"),
    pytest.param(ws_frame(BINARY, b"abc", bits=0x40), 1002, id="compressed"),
    pytest.param(ws_frame(BINARY, b"abc", bits=0x20), 1002, id="reserved bit"),
    pytest.param(ws_frame(BINARY, b"abc", masked=False), 1002, id="not masked"),
    pytest.param(ws_frame(3, b"abc"), 1002, id="undefined opcode"),
    pytest.param(ws_frame(11, b"abc"), 1002, id="undefined control opcode"),
    pytest.param(ws_frame(0, b"abc"), 1002, id="continuation without a start"),
    pytest.param(ws_frame(BINARY, b"\2\0", fin=False) + ws_frame(BINARY, b"abc"), 1002, id="start within a message"),
    pytest.param(ws_frame(BINARY, b"\2\0", fin=False) + ws_frame(TEXT, b"abc"), 1003, id="text within a message"),
    pytest.param(ws_frame(PING, b"a" * 126), 1002, id="long ping"),
    pytest.param(ws_frame(PING, b"a", fin=False), 1002, id="ping in fragments"),
    pytest.param(b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009, id="a terabyte"),
    pytest.param(b"\x82\xff" + (1 << 63).to_bytes(8, "big"), 1002, id="the highest bit of a length"),
    pytest.param(b"\x82\xfe\x00\x05", 1002, id="length not in its shortest form"),
    pytest.param(b"\x82\xff" + (70).to_bytes(8, "big"), 1002, id="long length not in its shortest form"),
    pytest.param(ws_frame(CLOSE, b"\x03"), 1002, id="half a code"),
    *(
        pytest.param(ws_frame(CLOSE, code.to_bytes(2, "big")), 1002, id=f"code {code}")
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    ),
    pytest.param(ws_frame(CLOSE, b"\x03\xe8\xff"), 1007, id="reason not UTF-8"),
]


@pytest.mark.parametrize("verified", [False, True], ids=["before the login", "after it"])
@pytest.mark.parametrize(("data", "code"), BAD_FRAMES)
async def test_a_bad_frame_gets_its_close_code(data: bytes, code: int, verified: bool) -> None:
    async with with_origins() as server:
        async with WebClient.upgraded(server.endpoint) as client:
            if verified:
                client.send(LOGIN)
                await client.frame()
            client.send(data)
            assert await client.close_code() == code
        await until(lambda: not server.connections)
        if verified:
            expected = CloseCode.FRAME_TOO_LARGE if code == 1009 else CloseCode.PROTOCOL_ERROR
            assert server.ended == [(7, expected)]


async def test_fragments_may_not_be_oversized_in_sum() -> None:
    async with with_origins() as server:
        async with WebClient.upgraded(server.endpoint) as client:
            client.send(LOGIN)
            await client.frame()
            client.send(ws_frame(BINARY, frame_of(Echo(1)), fin=False))
            client.send(b"\x80\xff" + (1_048_570).to_bytes(8, "big"))
            while True:
                opcode, payload = await client.frame()
                if opcode == CLOSE:
                    break
                assert payload == frame_of(Echo(1))  # what came before it is handled
            assert payload == (1009).to_bytes(2, "big")


async def test_a_login_may_come_in_fragments_of_one_byte() -> None:
    async with with_origins() as server:
        data = verify_request(7)
        async with WebClient.upgraded(server.endpoint) as client:
            client.send(ws_frame(BINARY, data[:1], fin=False))
            for byte in data[1:-1]:
                client.send(ws_frame(0, bytes((byte,)), fin=False), ws_frame(PING))
            client.send(ws_frame(0, data[-1:]))
            while (answer := await client.frame())[0] != BINARY:
                pass
            assert answer == (BINARY, verify_succeeded(7))


@pytest.mark.parametrize(
    "flood",
    [ws_frame(PING), ws_frame(BINARY), ws_frame(BINARY, b"\x02"), ws_frame(10, b"pong")],
    ids=["pings", "empty messages", "one byte", "pongs"],
)
async def test_a_flood_of_frames_that_carry_nothing_is_ended(flood: bytes) -> None:
    async with with_origins() as server:
        async with WebClient.upgraded(server.endpoint) as client:
            client.send(LOGIN)
            await client.frame()
            client.send(flood * (3 * SMALL_BURST))
            code = await client.close_code()
            assert code in (1008, CloseCode.PROTOCOL_ERROR)
            assert code == 1008 or flood == ws_frame(BINARY, b"\x02")  # those bytes are no frames, either


async def test_nothing_behind_a_close_frame_is_read() -> None:
    async with with_origins() as server:
        async with WebClient.upgraded(server.endpoint) as client:
            client.send(LOGIN)
            await client.frame()
            client.send(ws_frame(CLOSE, b"\x0f\xa0"), ws_frame(BINARY, frame_of(Echo(1))))
            assert await client.close_code() == 4000
        await until(lambda: server.ended == [(7, CloseCode.NORMAL)])


# -- proxies --

PROXIED = Listen(endpoint=WS, proxies=("127.0.0.1/32",))


async def address_seen(server: EchoServer, *headers: str, before: bytes = b"") -> str:
    """The address that the session of a login with these headers has."""
    async with WebClient.open(server.endpoint) as client:
        client.send(before, request(*headers))
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        client.send(LOGIN)
        await client.frame()
        return server.session(7).address


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ((), "127.0.0.1"),
        (("X-Forwarded-For: 203.0.113.9",), "203.0.113.9"),
        (("X-Forwarded-For: 6.6.6.6, 203.0.113.9",), "203.0.113.9"),
        (("X-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.0.0.1",), "203.0.113.9"),
        (("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9"), "203.0.113.9"),
        (('Forwarded: for="[2001:db8::1]:4711";proto=https',), "2001:db8::1"),
        (("Forwarded: for=6.6.6.6, proto=https; For=203.0.113.9",), "203.0.113.9"),
        (("Forwarded: for=203.0.113.9", "X-Forwarded-For: 203.0.113.9"), "203.0.113.9"),
    ],
)
async def test_a_proxy_of_ours_names_the_client(headers: tuple[str, ...], address: str) -> None:
    async with serving(PROXIED) as server:
        assert await address_seen(server, *headers) == address


@pytest.mark.parametrize("header", ["X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"])
async def test_a_forged_address_from_outside_is_not_believed(header: str) -> None:
    async with serving(Listen(endpoint=WS, proxies=("10.0.0.0/8",)), WS) as server:
        assert await address_seen(server, header) == "127.0.0.1"


async def test_a_client_can_t_slip_a_second_header_past_the_proxy() -> None:
    """The proxy writes X-Forwarded-For, and lets Forwarded pass as the client sent it."""
    async with serving(PROXIED) as server, WebClient.open(server.endpoint) as client:
        client.send(request("Forwarded: for=6.6.6.6", "X-Forwarded-For: 203.0.113.9"))
        status, text = await client.response()
        assert status == 400 and b"Forwarded" in text


@pytest.mark.parametrize("before", [b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n", b"PROXY UNKNOWN\r\n"])
async def test_a_proxy_header_may_stand_before_the_request(before: bytes) -> None:
    async with serving(PROXIED) as server:
        expected = "203.0.113.9" if b"TCP4" in before else "127.0.0.1"
        assert await address_seen(server, before=before) == expected


async def test_limits_of_an_address_are_those_of_the_client_behind_the_proxy() -> None:
    async with serving(PROXIED, limits=Limits(max_per_address=1, exempt=())) as server:
        async with WebClient.upgraded(server.endpoint, "X-Forwarded-For: 203.0.113.9"):
            async with WebClient.open(server.endpoint) as second:
                second.send(request("X-Forwarded-For: 203.0.113.9"))
                assert await second.reader.read() == b""
            async with WebClient.upgraded(server.endpoint, "X-Forwarded-For: 203.0.113.10"):
                pass


@pytest.mark.parametrize(
    ("tls", "proxies", "proto", "counts"),
    [
        ("terminated", "127.0.0.1", "https", True),
        ("terminated", "127.0.0.1", "", True),
        ("terminated", "127.0.0.1", "http", False),
        ("terminated", "10.0.0.1", "https", False),
        ("", "127.0.0.1", "https", False),
    ],
)
async def test_only_what_comes_through_a_proxy_that_ends_tls_counts_as_tls(
    tls: str, proxies: str, proto: str, counts: bool
) -> None:
    listen = Listen(endpoint=WS, proxies=(proxies,), tls="terminated" if tls else "")
    headers = [f"X-Forwarded-Proto: {proto}"] if proto else []
    async with serving(listen) as server:
        async with WebClient.upgraded(server.endpoint, *headers) as client:
            client.send(LOGIN)
            await client.frame()
            (connection,) = server.connections
            assert connection.is_tls is counts


def test_the_bound_of_a_request_is_the_one_in_the_docs() -> None:
    assert MAX_HEAD == 8_192
