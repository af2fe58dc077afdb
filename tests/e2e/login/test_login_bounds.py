"""How many connections and requests the login service takes, in all and from one network."""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatelink.auth.tokens import Identity
from gatelink.login.http import HttpAdmission
from tests.e2e.login.support import (
    ANNA,
    RawHttp,
    asking,
    limits,
    post,
    problem_in,
    serving_login,
)
from tests.e2e.support import closing, until
from tests.support import MS

LOGIN = json.dumps(ANNA).encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


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


async def test_slow_bodies_hold_no_place_of_whole_requests(tmp_path: Path) -> None:
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


# -- clients that ask too often --


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


async def test_a_client_that_does_not_read_the_replies_is_cut_off(tmp_path: Path) -> None:
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
            await asyncio.sleep(20 * MS)  # that it is not read has no event
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
