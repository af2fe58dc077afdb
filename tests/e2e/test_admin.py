"""The admin port over real sockets: what it answers, what it refuses, and that nothing of it is left."""

import asyncio
import logging
import signal
import socket
import time
from contextlib import suppress

import pytest

from examples.demo import reserved_ports
from gatelink import ConfigError, Server, StaticTokens
from gatelink.ops import families, http
from gatelink.ops.admin import Admin
from tests.support import MS


def new_server() -> Server:
    return Server("tcp://127.0.0.1:0", tokens=StaticTokens())


async def request(admin: Admin, text: str) -> tuple[int, dict[str, str], str]:
    """(status, headers, body) of one request; `text` is its first line, less the version."""
    reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
    writer.write(f"{text} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    first, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


async def test_metrics_are_in_prometheus_text_format() -> None:
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        status, headers, body = await request(admin, "GET /metrics")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "\ngatelink_sessions 0.0\n" in body and "\nprocess_open_fds " in body
        await admin.stop()


async def test_health_is_ok_while_the_server_runs_and_503_once_it_stops() -> None:
    server = new_server()
    await server.start()
    admin = Admin(server, "127.0.0.1:0")
    await admin.start()
    status, _, body = await request(admin, "GET /healthz")
    assert (status, body) == (200, "ok\n")
    await server.stop()
    status, _, body = await request(admin, "GET /healthz")
    assert (status, body) == (503, "stopping\n")
    await admin.stop()


async def test_a_servers_own_admin_port_starts_and_stops_with_it() -> None:
    with reserved_ports() as port:
        server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), admin=f"127.0.0.1:{port}")
        async with server:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_only_the_two_pages_and_only_get_and_head() -> None:
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        for path in ("/", "/metrics/", "/healthz/x", "/../etc/passwd"):
            assert (await request(admin, f"GET {path}"))[0] == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            status, headers, _ = await request(admin, f"{method} /metrics")
            assert status == 405 and headers["allow"] == "get, head"
        status, headers, body = await request(admin, "HEAD /healthz")
        assert (status, headers["content-length"], body) == (200, "3", "")
        await admin.stop()


@pytest.mark.parametrize("address", ["", "9100", ":9100", "127.0.0.1", "127.0.0.1:99999", "::1:9100", "http://a:1"])
async def test_a_bad_address_is_refused_with_how_it_is_written(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is not host:port; write it as 127\.0\.0\.1:9100"):
        await Admin(new_server(), address).start()


async def test_a_taken_address_is_refused_by_name_and_the_server_does_not_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), admin=address)
        with pytest.raises(ConfigError, match=f"cannot listen on admin address {address}: Address already in use"):
            await server.start()
        assert not server.is_running and not server.endpoints


async def test_stop_leaves_no_task_and_no_socket_however_its_peers_behave() -> None:
    async with new_server() as server:
        tasks = asyncio.all_tasks()
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        silent = await asyncio.open_connection("127.0.0.1", admin.port)
        half = await asyncio.open_connection("127.0.0.1", admin.port)
        half[1].write(b"GET /metrics HT")
        idle = await asyncio.open_connection("127.0.0.1", admin.port)
        idle[1].write(b"GET /healthz HTTP/1.1\r\nHost: admin\r\n\r\n")
        await idle[0].readuntil(b"ok\n")
        await admin.stop()
        for reader, writer in (silent, half, idle):
            assert await reader.read() == b""
            writer.close()
        assert asyncio.all_tasks() == tasks
        with socket.create_server(("127.0.0.1", admin.port)):
            pass  # nobody holds the port any more


async def test_more_connections_than_it_holds_are_cut_off() -> None:
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        held = [await asyncio.open_connection("127.0.0.1", admin.port) for _ in range(http.MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        for _, other in (*held, (reader, writer)):
            other.close()
        await admin.stop()


@pytest.mark.parametrize("said", [b"", b"GET /metrics HT"])
async def test_a_peer_that_never_asks_is_cut_off(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LIFETIME", 50 * MS)
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(said)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        await admin.stop()


async def test_a_block_of_the_loop_shows_at_its_length_until_it_was_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "LAG_SECONDS", 0.0)  # so that it is only for the scrape
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()

        async def lag() -> float:
            _, _, body = await request(admin, "GET /metrics")
            found = next(line for line in body.splitlines() if line.startswith("gatelink_loop_lag_seconds "))
            return float(found.split()[1])

        for wait in (0.0, 0.005, 0.011, 0.017):  # wherever between two looks it begins
            await asyncio.sleep(wait)
            time.sleep(0.3)  # noqa: ASYNC251 - a handler that blocks
            await asyncio.sleep(0.1)
            assert await lag() >= 0.3
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        assert await lag() >= 0.3, "of a scrape that comes in the middle of it, too"
        await admin.stop()


async def test_a_block_shows_to_every_scraper_for_a_while() -> None:
    async with new_server() as server:
        server.lag.start()
        time.sleep(0.1)  # noqa: ASYNC251 - a handler that blocks
        assert [server.lag.since_last(15) >= 0.1 for _ in range(3)] == [True] * 3
        assert server.lag.within(15) >= 0.1


async def test_it_leaves_signal_handlers_and_logging_as_it_finds_them() -> None:
    names = ("uvicorn", "uvicorn.error", "uvicorn.access")

    def settings() -> list[object]:
        loggers = [logging.getLogger(name) for name in names]
        return [
            *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
            *((logger.level, logger.propagate, list(logger.handlers)) for logger in loggers),
        ]

    async with new_server() as server:
        before = settings()
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        await request(admin, "GET /healthz")
        assert settings() == before
        await admin.stop()


async def test_requests_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        await request(admin, "GET /healthz")
        await admin.stop()
    assert "healthz" not in caplog.text


async def test_what_is_no_http_is_not_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with new_server() as server:
        admin = Admin(server, "127.0.0.1:0")
        await admin.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", admin.port)
        writer.write(b"\0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await admin.stop()
    assert "Invalid HTTP" not in caplog.text + capfd.readouterr().err
