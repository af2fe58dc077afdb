"""Scripts of web pages at the login service: a browser asks first, and hands on only what it is allowed to."""

from pathlib import Path

import httpx
import pytest

from gatelink.errors import ConfigError
from gatelink.login.gateways import GatewayInfo, StaticGateways
from tests.e2e.login.support import ANNA, asking, limits, serving_login

PAGE = "https://play.example.com"
ELSEWHERE = "https://evil.example"


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }


async def register(http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await http.post("/v1/register", json=ANNA, headers=headers)


async def test_a_page_of_a_configured_origin_may_log_in(tmp_path: Path) -> None:
    async with serving_login(tmp_path, origins=(PAGE,)) as service, asking(service) as http:
        asked = await http.options("/v1/login", headers=preflight(PAGE))
        assert asked.status_code == 204 and asked.content == b""
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert "content-type" in asked.headers["access-control-allow-headers"]
        assert asked.headers["vary"] == "origin"
        refused = await http.post("/v1/login", json={}, headers={"origin": PAGE})
        for answer in (await register(http, origin=PAGE), refused):
            assert answer.headers["access-control-allow-origin"] == PAGE  # a refusal, too, is to be read


async def test_a_page_of_another_origin_is_told_nothing(tmp_path: Path) -> None:
    async with serving_login(tmp_path, origins=(PAGE,)) as service, asking(service) as http:
        asked = await http.options("/v1/login", headers=preflight(ELSEWHERE))
        answered = await http.post("/v1/login", json=ANNA, headers={"origin": ELSEWHERE})
        for answer in (asked, answered):
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_without_origins_no_page_is_answered(tmp_path: Path) -> None:
    async with serving_login(tmp_path) as service, asking(service) as http:
        answer = await http.options("/v1/login", headers=preflight(PAGE))
        assert "access-control-allow-origin" not in answer.headers


async def test_a_star_is_every_page(tmp_path: Path) -> None:
    async with serving_login(tmp_path, origins=("*",)) as service, asking(service) as http:
        assert (await http.options("/v1/login", headers=preflight(ELSEWHERE))).status_code == 204


async def test_preflights_count_as_requests(tmp_path: Path) -> None:
    few = limits(request_rate=0.001, request_burst=2, exempt=())
    async with serving_login(tmp_path, origins=(PAGE,), limits=few) as service, asking(service) as http:
        statuses = [(await http.options("/v1/login", headers=preflight(PAGE))).status_code for _ in range(3)]
        assert statuses[0] == 204 and statuses[-1] == 429


@pytest.mark.parametrize(
    "wrong", ["play.example.com", "https://play.example.com/", "https://a.example, https://b.example"]
)
async def test_an_origin_that_no_browser_sends_is_refused_at_the_start(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="https://play.example.com"):
        async with serving_login(tmp_path, origins=(wrong,)):
            pass


async def test_a_login_has_the_addresses_of_websockets(tmp_path: Path) -> None:
    addresses = ("tcp://play.example.com:7000", "ws://play.example.com:7800", "wss://play.example.com/gates/1")
    gateway = GatewayInfo(id=31, name="gate", addresses=addresses)
    async with serving_login(tmp_path, gateways=StaticGateways([gateway])) as service, asking(service) as http:
        given = (await register(http)).json()
        assert given["addresses"]["wss"] == addresses[2]
        assert given["addresses"]["ws"] == addresses[1]
