"""Slow, large, many and odd requests at the login service: each costs only its sender."""

import asyncio
import json
import socket
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatelink.auth.tokens import Identity
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.config import networks
from gatelink.login.app import MOST_DISCARDED, forwarded_for
from gatelink.login.http import HttpAdmission
from tests.e2e.login.support import (
    ANNA,
    RawHttp,
    asking,
    limits,
    new_accounts,
    new_service,
    post,
    problem_in,
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
            await asyncio.sleep(300 * MS)


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
        if size <= MOST_DISCARDED:  # who announces more is answered before it sends
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


async def test_who_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service:
        for part in (b"POST", post("/v1/login", LOGIN)[:-5], post("/v1/login", LOGIN)):
            peer = await RawHttp.open(service)
            await peer.send(part)
            peer.writer.transport.abort()
            await peer.close()
        await until(lambda: service.admission.count == 0 and service.limited_app.active == 0)


class Stuck:
    """A login that lasts until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = 0

    async def login(self, credentials: Any, address: str) -> Identity:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Identity(7)


async def test_requests_under_way_are_limited(tmp_path: Path) -> None:
    stuck = Stuck()
    settings = {"methods": {"password": stuck}, "limits": limits(max_requests=3)}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(http.post("/v1/login", json=ANNA | {"user": f"u{n}xx"})) for n in range(3)]
            await until(lambda: service.limited_app.active == 3)
            response = await http.post("/v1/login", json=ANNA)
            problem_in(response, 503, "busy")
            assert int(response.headers["retry-after"]) >= 1
            stuck.go.set()
        assert [(task.result()).status_code for task in waiting] == [200] * 3
        assert (await http.post("/v1/login", json=ANNA)).status_code == 200


async def test_slow_bodies_hold_no_place_of_those_who_have_sent_theirs(tmp_path: Path) -> None:
    async with serving_login(tmp_path, limits=limits(max_requests=3)) as service, AsyncExitStack() as stack:
        for _ in range(6):
            slow = await RawHttp.open(service)
            stack.push_async_callback(slow.close)
            await slow.send(post("/v1/login", b"{}")[:-1])
        await until(partial(_holds, service.admission, 6))
        http = await stack.enter_async_context(asking(service))
        assert (await http.post("/v1/register", json=ANNA)).status_code == 201


@pytest.mark.parametrize(("settings", "lines"), [({}, 1), ({"proxies": ("127.0.0.0/8",)}, 0)])
async def test_a_proxy_that_was_forgotten_is_told_of_once(
    settings: dict[str, Any], lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving_login(tmp_path, **settings) as service:
        for address in (None, "192.0.2.1", "192.0.2.2"):
            async with asking(service, address) as http:
                assert (await http.get("/v1/servers")).status_code == 200
    assert capsys.readouterr().out.count("a proxy that login.proxies does not have") == lines


async def test_a_login_that_takes_too_long_is_cancelled_and_answered(tmp_path: Path) -> None:
    stuck = Stuck()
    settings = {"methods": {"password": stuck}, "limits": limits(timeout=1_500 * MS)}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        response = await http.post("/v1/login", json=ANNA)
        problem_in(response, 503, "timeout")
        assert stuck.cancelled == 1
        assert (await http.get("/healthz")).status_code == 200


def _holds(admission: HttpAdmission, count: int) -> bool:
    return admission.count == count


async def test_connections_are_limited_in_all_and_by_network(tmp_path: Path) -> None:
    stuck = Stuck()
    for changed, reason in (
        ({"max_connections": 3}, "server-full"),
        ({"max_per_address": 3, "exempt": ()}, "address-full"),
    ):
        settings = {"limits": limits(**changed), "methods": {"password": stuck}}
        async with serving_login(tmp_path, **settings) as service, AsyncExitStack() as stack:
            peers = []
            for _ in range(3):
                peers.append(await RawHttp.open(service))
                stack.push_async_callback(peers[-1].close)
                await peers[-1].send(post("/v1/login", LOGIN))
            await until(lambda: service.limited_app.active == 3)  # noqa: B023 - awaited here
            admission = service.admission
            await until(partial(_holds, admission, 3))
            refused = await RawHttp.open(service)
            stack.push_async_callback(refused.close)
            assert await refused.rest() == b""
            assert admission.refused == {reason: 1}
            await peers.pop().close()
            await until(partial(_holds, admission, 2))
            again = await RawHttp.open(service)
            stack.push_async_callback(again.close)
            await again.send(HEALTH)
            assert (await again.response())[0] == 200


async def test_the_connection_that_is_idle_for_the_longest_gives_way_to_a_new_one(tmp_path: Path) -> None:
    stuck = Stuck()
    settings = {"limits": limits(max_connections=4), "methods": {"password": stuck}}
    async with serving_login(tmp_path, **settings) as service, AsyncExitStack() as stack:

        async def opened(data: bytes = b"") -> RawHttp:
            peer = await RawHttp.open(service)
            stack.push_async_callback(peer.close)
            if data:
                await peer.send(data)
            return peer

        busy = await opened(post("/v1/login", LOGIN))
        await until(lambda: service.limited_app.active == 1)
        silent = await opened()
        trickling = await opened(b"POST /v1/lo")
        used = await opened(HEALTH)
        assert (await used.response())[0] == 200
        for gone in (silent, trickling, used):
            another = await opened(HEALTH)
            assert (await another.response())[0] == 200
            assert await gone.rest() == b""
        assert service.admission.refused == {"idle": 3} and service.admission.count == 4
        stuck.go.set()
        assert (await busy.response())[0] == 200, "a request that is whole is answered"


async def test_idle_connections_by_the_thousand_shut_nobody_out(tmp_path: Path) -> None:
    async with serving_login(tmp_path, limits=limits(max_connections=100)) as service, AsyncExitStack() as stack:
        for _ in range(300):
            peer = await RawHttp.open(service)
            stack.push_async_callback(peer.close)
        http = await stack.enter_async_context(asking(service))
        assert (await http.post("/v1/register", json=ANNA)).status_code == 201
        await until(lambda: service.admission.count <= 100)


# -- who asks too often --


async def test_a_network_that_asks_too_often_is_told_and_then_cut_off_and_nobody_else(tmp_path: Path) -> None:
    settings = {"limits": limits(request_rate=0.001, request_burst=5, exempt=())}
    async with serving_login(tmp_path, **settings) as service, AsyncExitStack() as stack:
        statuses = []
        for _ in range(10):
            peer = await RawHttp.open(service)
            stack.push_async_callback(peer.close)
            await peer.send(post("/v1/logout", b'{"token": "x"}'))
            status, headers, _ = await peer.response()
            statuses.append(status)
            if status == 429:
                assert int(headers["retry-after"]) >= 1 and headers["connection"] == "close"
                assert await peer.rest() == b""
        assert statuses == [204] * 5 + [429] * 5
        cut = await RawHttp.open(service)
        stack.push_async_callback(cut.close)
        assert await cut.rest() == b""
        assert service.admission.refused == {"network-rate": 1}
        url = httpx.URL(service.url)
        other = RawHttp(*await asyncio.open_connection(url.host, url.port, local_addr=("127.0.1.1", 0)))
        stack.push_async_callback(other.close)
        await other.send(HEALTH)
        assert (await other.response())[0] == 200


@pytest.mark.parametrize(
    "addresses",
    [
        [f"192.0.2.{n}" for n in range(1, 60)],
        [f"2001:db8:1:2{n:02x}::1" for n in range(60)],
        [f"2001:db8:1:{n:02x}00::1" for n in range(120)],
    ],
    ids=["a /24", "a /56", "a /48"],
)
async def test_addresses_of_one_network_share_a_bucket_behind_a_proxy_too(addresses: list[str], tmp_path: Path) -> None:
    settings = {"limits": limits(request_rate=0.001, request_burst=4), "proxies": ("127.0.0.0/8",)}
    async with serving_login(tmp_path, **settings) as service, asking(service) as http:
        statuses = []
        for address in addresses:
            response = await http.get("/v1/servers", headers={"x-forwarded-for": address})
            statuses.append(response.status_code)
        served = statuses.count(200)
        assert served in (16, 64) and statuses == [200] * served + [429] * (len(addresses) - served)
        assert (await http.get("/v1/servers", headers={"x-forwarded-for": "198.51.100.7"})).status_code == 200


async def test_who_does_not_read_the_replies_is_cut_off(tmp_path: Path) -> None:
    async with (
        serving_login(tmp_path, limits=limits(head_timeout=500 * MS, timeout=500 * MS)) as service,
        closing(RawHttp.open(service)) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                await peer.send(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
                await asyncio.sleep(10 * MS)
        await peer.close()
        await until(lambda: service.admission.count == 0)


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_behind_another_is_not_read_and_the_connection_ends(together: bool, tmp_path: Path) -> None:
    stuck = Stuck()
    async with serving_login(tmp_path, methods={"password": stuck}) as service, closing(RawHttp.open(service)) as peer:
        behind = post("/v1/login", LOGIN) * 3
        await peer.send(post("/v1/login", LOGIN) + (behind if together else b""))
        await until(lambda: service.limited_app.active == 1)
        if not together:
            await peer.send(behind)
            await peer.send(b"x")  # it is there when a second write is
            await asyncio.sleep(20 * MS)
        stuck.go.set()
        status, headers, _ = await peer.response()
        assert status == 200
        assert not together or headers["connection"] == "close"
        assert await peer.rest() == b""
        assert service.logins.outcomes == {("password", "succeeded"): 1}


async def test_stopping_answers_what_is_under_way_and_closes_the_rest(tmp_path: Path) -> None:
    stuck = Stuck()
    async with serving_login(tmp_path, methods={"password": stuck}) as service:
        idle, busy = await RawHttp.open(service), await RawHttp.open(service)
        await busy.send(post("/v1/login", LOGIN))
        await until(lambda: service.limited_app.active == 1)
        stopping = asyncio.create_task(service.stop())
        assert await idle.rest() == b""
        stuck.go.set()
        assert (await busy.response())[0] == 200
        assert await busy.rest() == b""
        await stopping
        for peer in (idle, busy):
            await peer.close()


# -- whose address it is --

PROXIES = networks("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # no proxy of ours: anybody can write a header
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),  # what stands before it the client wrote
        ("10.0.0.1", "127.0.0.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, not-an-address", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", ""),
    ],
)
def test_a_forwarded_address_is_believed_only_from_our_proxies(peer: str, forwarded: str | None, address: str) -> None:
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    assert forwarded_for(headers, peer, PROXIES) == address


def test_several_headers_are_one_list() -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.9"), (b"other", b"x"), (b"x-forwarded-for", b"10.0.0.2")]
    assert forwarded_for(headers, "10.0.0.1", PROXIES) == "203.0.113.9"
