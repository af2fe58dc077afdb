"""A network's requests are counted before any other work, whatever becomes of them."""

from typing import Any

import pytest

from gatelink.login.app import LimitedApp
from gatelink.login.limits import LoginLimits
from gatelink.login.networks import RequestRates

BOTH = [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
LARGE = [(b"x", b"y" * 20_000)]


@pytest.mark.parametrize(("headers", "status"), [(BOTH, 400), (LARGE, 431)], ids=["two lengths", "large head"])
async def test_requests_that_are_refused_at_once_count_for_their_network(
    headers: list[tuple[bytes, bytes]], status: int
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    limits = LoginLimits(exempt=(), request_rate=0.001, request_burst=2)
    rates = RequestRates(limits)
    app = LimitedApp(answer, limits, rates)
    seen: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    async def ask(headers: list[tuple[bytes, bytes]]) -> int:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "client": ("192.0.2.1", 1)}
        await app({**scope, "headers": headers}, receive, send)
        return seen[-1]

    assert [await ask(headers) for _ in range(2)] == [status, status]
    assert await ask([]) == 429, "its two requests are used up"
    assert await ask(headers) == status and rates.is_flooding("192.0.2.1"), "its connections are refused from now on"
