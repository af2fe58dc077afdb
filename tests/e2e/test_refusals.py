"""Every refusal is in the server's log, once a second for each reason; the client hears what to look for."""

import asyncio
import ssl
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from gatelink import ClusterKey, ConnectError, Handlers, Limits, Listen, Server, ServerKey, connect
from gatelink.logger import RateLimitedLogger
from gatelink.net import admission
from gatelink.net.endpoints import Endpoint
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import CATALOG, TCP, RawClient, make_certificate, serving, token_of, until, verify_request
from tests.support import MS

SECRET = b"hunter2-"


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The lines about refusals, of this test alone, by a clock on which each comes a second after the last."""
    capture = LogCapture()
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])
    monkeypatch.setattr(admission, "quiet", RateLimitedLogger(log, count().__next__))
    yield capture.entries


async def refused(server: Server | Endpoint, logs: list[Any], *data: bytes, tls: ssl.SSLContext | None = None) -> str:
    """What the log says of a connection that sends this and is refused."""
    before = len(logs)
    client = await RawClient.open(server, tls)
    client.send(*data)
    await client.rest_bytes()
    await client.close()
    await until(lambda: len(logs) > before)
    (line,) = logs[before:]
    assert line["log_level"] == "info" and SECRET.decode() not in str(line) and token_of(7).decode() not in str(line)
    return f"{line['event']} {line['address']} {line['why']}"


@pytest.mark.parametrize(
    "data, words",
    [
        (b"GET /hunter2- HTTP/1.1\r\nhost: a\r\n\r\n", "begins as an HTTP request"),
        (b"POST /hunter2- HTTP/1.1\r\n\r\n", "begins as an HTTP request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "begins as TLS"),
        (b"SSH-2.0-hunter2-\r\n", "begins as SSH"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "give this listener `proxies`"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "give this listener `proxies`"),
        (b"\x08\x00\x00\x00\x63\x00" + SECRET, "first message has id 99"),
        (verify_request(7, b"hunter2-" * 200), "frame of"),
    ],
)
async def test_what_is_no_gatelink_client_is_named(logs: list[Any], data: bytes, words: str) -> None:
    async with serving() as server:
        line = await refused(server, logs, data)
        assert words in line and line.startswith("refused: ") and " 127.0.0.1 " in line


async def test_plain_logins_and_hellos_at_a_sealed_listener_are_named_and_the_client_hears_of_it(
    logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(TCP, sealed_only=True, keys=[ServerKey.generate()]) as server:
        assert "takes sealed connections only" in await refused(server, logs, verify_request(7))
        with pytest.raises(ConnectError, match="only sealed connections .give server_key."):
            await connect(str(server.endpoint), uid=7, token="t" * 32, catalog=CATALOG)
        with pytest.raises(ConnectError, match="only sealed connections .give server_key."):
            await connect(str(server.endpoint), uid=7, token="t" * 32, catalog=CATALOG, base_protocol=True)


async def test_a_wrong_server_key_and_a_server_without_keys_are_told_apart_in_the_log(logs: list[Any]) -> None:
    hint = "none: give the server keys="
    for keys, words in (([ServerKey.generate()], "this server's: "), ([], hint)):
        async with serving(keys=keys) as server:
            with pytest.raises(ConnectError, match="server_key is not a key of this server"):
                key = ServerKey.generate().public
                await connect(str(server.endpoint), uid=7, token="t" * 32, catalog=CATALOG, server_key=key)
            await until(lambda: logs)
        assert "HANDSHAKE for unknown key" in logs[0]["why"] and words in logs[0]["why"]
        logs.clear()


async def test_plain_at_tls_and_tls_at_plain(logs: list[Any], tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(TCP, tls) as server:
        plain, sealed = server.endpoints
        with pytest.raises(ConnectError, match="tls://"):
            await connect(f"tcp://127.0.0.1:{sealed.port}", uid=7, token="t" * 32, catalog=CATALOG)
        await until(lambda: [line for line in logs if line["event"] == "refused: tls-handshake"])
        with pytest.raises(ConnectError, match="does this listener speak TLS"):
            await connect(f"tls://127.0.0.1:{plain.port}", uid=7, token="t" * 32, catalog=CATALOG, tls=context)
        await until(lambda: [line for line in logs if "begins as TLS" in line["why"]])
        with pytest.raises(ConnectError, match="give tls= a context that trusts"):
            await connect(f"tls://127.0.0.1:{sealed.port}", uid=7, token="t" * 32, catalog=CATALOG)


RIGHT = {"tcp": "tcp://", "sealed": "tcp://", "tls": "tls://", "ws": "ws://", "wss": "wss://"}
"""How each kind of listener is dialled."""

CLIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tcp": ("tcp", {}),
    "base": ("tcp", {"base_protocol": True}),
    "sealed": ("tcp", {"server_key": ServerKey.generate().public}),
    "tls": ("tls", {}),
    "ws": ("ws", {}),
    "wss": ("wss", {}),
}

FIT = {("tcp", "tcp"), ("tcp", "base"), ("tls", "tls"), ("ws", "ws"), ("wss", "wss")}
"""The kinds of listener and client that fit. The key of `sealed` is another server's."""


@pytest.mark.parametrize(
    ("kind", "client"), [(kind, client) for kind in RIGHT for client in CLIENTS if (kind, client) not in FIT]
)
async def test_a_client_at_the_wrong_kind_of_listener_hears_what_to_dial_and_the_log_has_a_line(
    kind: str, client: str, logs: list[Any], tmp_path: Path
) -> None:
    scheme, options = CLIENTS[client]
    certificate, key, context = make_certificate(tmp_path)
    own: dict[str, Any] = {"sealed_only": True, "keys": [ServerKey.generate()]} if kind == "sealed" else {}
    listen = {
        "tls": Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key),
        "wss": Listen(endpoint="wss://127.0.0.1:0", certificate=certificate, key=key),
        "ws": Listen(endpoint="ws://127.0.0.1:0"),
    }.get(kind, Listen(endpoint=TCP))
    if scheme in ("tls", "wss"):
        options = {**options, "tls": context}
    async with serving(listen, **own) as server:
        with pytest.raises(ConnectError) as caught:
            address = f"{scheme}://127.0.0.1:{server.endpoint.port}"
            await connect(address, uid=7, token="t" * 32, catalog=CATALOG, **options)
        await until(lambda: logs)
    right = "server_key" if RIGHT[kind] == f"{scheme}://" else RIGHT[kind]
    assert right in str(caught.value).removeprefix(address)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP request"),
        (b"Q\x00\x00\x80\x01" + bytes(76), "not an HTTP request"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY header"),
        (b"\r\n\r\n\x00\r\nQUIT\n", "PROXY header"),
        (b"\x16\x03\x01\x02\x00\x01", "not an HTTP request"),
    ],
    ids=["SSH", "HANDSHAKE", "PROXY 1", "PROXY 2", "TLS"],
)
@pytest.mark.parametrize("pieces", [1, 5])
async def test_what_is_no_http_request_is_refused_at_once_at_a_websocket_listener(
    data: bytes, words: str, pieces: int, logs: list[Any]
) -> None:
    async with serving("ws://127.0.0.1:0") as server:
        client = await RawClient.open(server)
        for at in range(0, len(data), step := -(-len(data) // pieces)):
            client.send(data[at : at + step])
            await asyncio.sleep(0)
        assert (await client.rest_bytes()).startswith(b"HTTP/1.1 400 ")
        await client.close()
        await until(lambda: logs)
        assert words in logs[0]["why"] or pieces > 1


@pytest.mark.parametrize(
    ("listen", "begins", "why"),
    [
        (Listen(endpoint="ws://127.0.0.1:0"), b"GET / HTTP/1.1\r\nHost: a", "it left in the middle of its request"),
        (Listen(endpoint=TCP, proxies=("127.0.0.0/8",)), b"PROXY TCP4", "it left after 10 bytes of a PROXY header"),
    ],
    ids=["WebSocket", "PROXY"],
)
async def test_a_client_that_leaves_in_the_middle_of_its_first_words_has_its_line(
    listen: Listen, begins: bytes, why: str, logs: list[Any]
) -> None:
    async with serving(listen) as server:
        for begun in (b"", begins):
            client = await RawClient.open(server)
            client.send(begun)
            await client.writer.drain()
            await asyncio.sleep(10 * MS)
            await client.close()
        await until(lambda: server.stats.refused["left-unverified"] == 2)
    assert [line["why"] for line in logs] == [why]


async def test_a_missing_a_wrong_and_an_unexpected_proxy_header_are_named(logs: list[Any]) -> None:
    async with serving(Listen(endpoint=TCP, proxies=("127.0.0.0/8",))) as server:
        assert "not a PROXY version 2 header, nor one of version 1" in await refused(server, logs, verify_request(7))
        with pytest.raises(ConnectError, match="or those of a proxy"):
            await connect(str(server.endpoint), uid=7, token="t" * 32, catalog=CATALOG)
    async with serving(Listen(endpoint=TCP, proxies=("192.0.2.0/24",))) as server:
        assert "127.0.0.1 is in no `proxies`" in await refused(server, logs, verify_request(7))


@pytest.mark.parametrize("pieces", [1, 9])
async def test_version_1_of_the_proxy_protocol_gives_the_address(pieces: int) -> None:
    async with serving(Listen(endpoint=TCP, proxies=("127.0.0.0/8",))) as server:
        for uid, line, address in (
            (7, b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 7000\r\n", "203.0.113.9"),
            (8, b"PROXY TCP6 2001:db8::9 2001:db8::1 51000 7000\r\n", "2001:db8::9"),
            (9, b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        ):
            client = await RawClient.open(server)
            data = line + verify_request(uid)
            for at in range(0, len(data), len(data) // pieces):
                client.send(data[at : at + len(data) // pieces])
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.frame())[0] == 2
            assert server.session(uid).address == address
            await client.close()


async def test_every_reason_has_at_most_a_line_a_second_and_says_how_many_it_left_out(
    logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[capture := LogCapture()])
    monkeypatch.setattr(admission, "quiet", RateLimitedLogger(log, lambda: now))
    logs = capture.entries
    async with serving() as server:
        for _ in range(5):
            client = await RawClient.open(server)
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            await client.rest_bytes()
            await client.close()
        assert len(logs) == 1
        now = 1.0
        await refused(server, logs, b"GET / HTTP/1.1\r\n\r\n")
        assert logs[1]["left_out"] == 4 and server.stats.refused["wrong-first-message"] == 6


async def test_a_client_that_says_nothing_and_leaves_is_counted_and_not_logged(logs: list[Any]) -> None:
    async with serving() as server:
        client = await RawClient.open(server)
        await client.close()
        await until(lambda: server.stats.refused["left-unverified"] == 1)
        assert logs == []
        client = await RawClient.open(server)
        client.send(verify_request(7)[:10])
        await client.writer.drain()
        await until(lambda: any(connection.buffered for connection in server._admission.connections))
        await client.close()
        await until(lambda: logs)
        assert logs[0]["event"] == "refused: left-unverified"


async def test_a_deadline_a_hook_an_old_version_and_a_limit_have_their_line(logs: list[Any]) -> None:
    async with serving(limits=Limits(verify_timeout=1_000 * MS, token_timeout=1_000 * MS)) as server:
        assert "refused: verify-timeout 127.0.0.1 0 frames, and 5 bytes" in await refused(server, logs, b"\x20\0\0\0\1")
    async with serving(Listen(endpoint=TCP, accept=lambda connection: False)) as server:
        assert "refused: accept-hook" in await refused(server, logs)
    async with serving(accept_version=lambda version: version == "2") as server:
        client = await ExtendedClient.extended(server)
        await client.end()
        await client.close()
        await until(lambda: logs[-1]["event"] == "refused: client-too-old")
    async with serving(limits=Limits(max_connections=1, exempt=())) as server:
        stays = await RawClient.verified(server, 7)
        assert "refused: server-full 127.0.0.1" in await refused(server, logs)
        await stays.close()


async def test_a_client_that_talks_to_something_else_is_told_so() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(http, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectError, match="no gatelink server says that"):
        await connect(address, uid=7, token="t" * 32, catalog=CATALOG)
    other.close()
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: writers.append(writer), "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectError, match="said nothing: is this a gatelink listener"):
        await connect(address, uid=7, token="t" * 32, catalog=CATALOG, timeout=1_000 * MS)
    silent.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_a_cluster_key_that_the_other_server_has_not_is_named(logs: list[Any]) -> None:

    inner = Listen(endpoint=TCP, inner=True, handlers=Handlers(CATALOG))
    async with serving(TCP, inner, id=2, cluster_key=ClusterKey.generate()) as server:
        with pytest.raises(ConnectError, match="likely"):
            await connect(
                str(server.endpoints[1]), uid=1, source=5, peer_id=2, cluster_key=ClusterKey.generate(), catalog=CATALOG
            )
        await until(lambda: [line for line in logs if "unknown cluster key" in line["why"]])
