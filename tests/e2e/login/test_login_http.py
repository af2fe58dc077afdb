"""Slow, large, many and odd requests at the login service: each costs only its sender."""

import asyncio
import json
import socket
from pathlib import Path

import httpx
import pytest

from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.app import MOST_DISCARDED
from tests.e2e.login.support import (
    ANNA,
    RawHttp,
    asking,
    limits,
    new_accounts,
    new_service,
    post,
    serving_login,
)
from tests.e2e.support import closing, until
from tests.support import MS

LOGIN = json.dumps(ANNA).encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", b"POST /v1/lo", b"POST /v1/login HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_trickles_is_cut_off_at_the_deadline(begun: bytes, tmp_path: Path) -> None:
    async with (
        serving_login(tmp_path, limits=limits(head_timeout=200 * MS)) as service,
        closing(RawHttp.open(service)) as slow,
    ):
        loop = asyncio.get_running_loop()
        started = loop.time()
        await slow.send(begun)
        async with slow.trickling(b"x"):
            assert await slow.rest() == b""
            assert loop.time() - started > 150 * MS
        await slow.close()
        await until(lambda: service.admission.count == 0)


async def test_a_connection_may_not_idle_for_ever_between_requests(tmp_path: Path) -> None:
    async with (
        serving_login(tmp_path, limits=limits(head_timeout=1_500 * MS)) as service,
        closing(RawHttp.open(service)) as peer,
    ):
        for _ in range(3):
            await peer.send(HEALTH)
            assert (await peer.response())[0] == 200
        await peer.send(b"GET /hea")
        assert await peer.rest() == b""


async def test_a_connection_idles_between_requests_longer_than_a_head_may_take(tmp_path: Path) -> None:
    """A balancer keeps it for 60 s, and must not find it closed."""
    assert limits().keep_alive > 60
    async with (
        serving_login(tmp_path, limits=limits(head_timeout=100 * MS)) as service,
        closing(RawHttp.open(service)) as peer,
    ):
        for _ in range(2):
            await peer.send(HEALTH)
            assert (await peer.response())[0] == 200
            await asyncio.sleep(300 * MS)  # idle for three times what a head may take


async def test_a_connection_that_idles_for_too_long_is_closed(tmp_path: Path) -> None:
    async with (
        serving_login(tmp_path, limits=limits(keep_alive=100 * MS)) as service,
        closing(RawHttp.open(service)) as peer,
    ):
        await peer.send(HEALTH)
        assert (await peer.response())[0] == 200
        assert await peer.rest() == b""


async def test_the_service_listens_on_every_address_of_its_name(tmp_path: Path) -> None:
    """localhost is 127.0.0.1, and on most machines ::1 too."""
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        service = new_service(engine, accounts, listen="http://localhost:0", admin="localhost:0")
        async with service:
            for port in (httpx.URL(service.url).port, service.admin_port):
                for *_, where in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
                    reader, writer = await asyncio.open_connection(str(where[0]), port)
                    writer.write(HEALTH)
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_trickles_is_answered_408_and_closed(chunked: bool, tmp_path: Path) -> None:
    async with (
        serving_login(tmp_path, limits=limits(timeout=200 * MS)) as service,
        closing(RawHttp.open(service)) as peer,
    ):
        length = b"transfer-encoding: chunked" if chunked else b"content-length: 1000"
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n")
        async with peer.trickling(b"1\r\n \r\n" if chunked else b" "):
            status, headers, body = await peer.response()
            assert (status, headers["connection"]) == (408, "close")
            assert headers["content-type"] == "application/problem+json" and b"too-slow" in body
        assert await peer.rest() == b""
        await peer.close()
        assert service.limited_app.active == 0


async def test_a_body_in_pieces_is_one_body(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        request = post("/v1/register", LOGIN)
        for n in range(len(request)):
            await peer.send(request[n : n + 1])
            await asyncio.sleep(0)
        assert (await peer.response())[0] == 201


@pytest.mark.parametrize("size", [16_385, 100_000, MOST_DISCARDED, 50 * MOST_DISCARDED])
async def test_a_body_that_is_too_large_is_answered_413(size: int, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        if size <= MOST_DISCARDED:  # a peer that announces more is answered before it sends
            await peer.send(b"x" * size)
        status, headers, body = await peer.response()
        assert (status, headers["connection"]) == (413, "close")
        assert headers["content-type"] == "application/problem+json" and b"16384" in body


async def test_a_chunked_body_without_end_is_answered_413(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")

        async def flood() -> None:
            while not peer.writer.transport.is_closing():
                await peer.send(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")

        flooding = asyncio.create_task(flood())
        assert (await peer.response())[0] == 413
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def test_the_largest_body_is_read(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        body = LOGIN[:-1] + b', "more": "' + b"x" * (16_384 - len(LOGIN) - 12) + b'"}'
        assert len(body) == 16_384 and (await http.post("/v1/register", content=body)).status_code == 201


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 300_000,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/login HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["a path without end", "TLS", "no HTTP", "length below 0", "two lengths", "no host"],
)
async def test_what_is_no_request_is_a_problem_and_closed(
    head: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        await peer.send(head + b"\r\n")
        status, headers, body = await peer.response()
        assert (status, headers["content-type"]) == (400, "application/problem+json") and b"bad-request" in body
        assert await peer.rest() == b""
    assert not caplog.text


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 4_000,
        b"GET / HTTP/1.1\r\nhost: x\r\ncookie: " + b"x" * 20_000 + b"\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n",
    ],
    ids=["many headers", "a long header", "a long path"],
)
async def test_too_long_a_head_is_a_problem_and_closed(head: bytes, in_pieces: bool, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        if in_pieces:
            await peer.send(head)
        else:
            await peer.send(head + b"\r\n")
        status, headers, _ = await peer.response()
        assert status in (400, 431) and headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close" and await peer.rest() == b""


async def test_a_body_that_goes_wrong_while_it_is_read_ends_the_connection(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await until(lambda: service.admission.count == 1)
        await peer.send(b"no chunk\r\n")
        await peer.rest()
        await peer.close()
        await until(lambda: service.admission.count == 0 and service.limited_app.active == 0)


@pytest.mark.parametrize(
    "begun",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"content-length: 0\r\ncontent-length: 40\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n2;a\rb\r\n{}\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0;\r\r\n\r\n",
    ],
    ids=[
        "both ways to say a length",
        "a chunk without its end",
        "an unknown encoding",
        "two lengths",
        "a bare CR in a chunk's extension",
        "a bare CR behind the last chunk's size",
    ],
)
async def test_a_request_that_ends_where_a_proxy_may_not_think_so_hides_no_other(begun: bytes, tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, closing(RawHttp.open(service)) as peer:
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\n" + begun + HEALTH)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1


async def test_a_body_whose_end_never_came_logs_nobody_in(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        await http.post("/v1/register", json=ANNA)
        before = dict(service.logins.outcomes)
        peer = await RawHttp.open(service)
        chunk = b"%x\r\n%b\r\n" % (len(LOGIN), LOGIN)
        await peer.send(b"POST /v1/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
        await until(lambda: service.admission.count == 2)
        await peer.close()
        await until(lambda: service.admission.count == 1)
        assert (await http.get("/healthz")).status_code == 200  # what the connection's end caused has been done
        assert service.logins.outcomes == before


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service:
        for part in (b"POST", post("/v1/login", LOGIN)[:-5], post("/v1/login", LOGIN)):
            peer = await RawHttp.open(service)
            await peer.send(part)
            peer.writer.transport.abort()
            await peer.close()
        await until(lambda: service.admission.count == 0 and service.limited_app.active == 0)
