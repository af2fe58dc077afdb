"""Where connections come in: kinds of sockets, what a balancer says, limits, and the accept hook."""

import asyncio
import errno
import gc
import os
import socket
import ssl
from ipaddress import IPv6Address, ip_address
from math import inf
from pathlib import Path

import pytest

from gatelink import ConfigError, Connection, Limits, Listen
from gatelink.config import LOOPBACK
from gatelink.net.endpoints import Endpoint
from gatelink.net.proxy_header import SIGNATURE
from gatelink.net.tls_watch import TlsConnection
from tests.e2e.support import (
    TCP,
    Echo,
    EchoServer,
    RawClient,
    closing,
    frame_of,
    make_certificate,
    needs_ipv6,
    neighbour,
    open_sockets,
    serving,
    until,
    verify_request,
)
from tests.e2e.websocket import BINARY, WebClient, request, ws_frame
from tests.support import MS


def proxy_header(source: str | None, port: int = 5_000) -> bytes:
    """A version 2 header; None: a LOCAL one."""
    if source is None:
        return SIGNATURE + b"\x20\x00\x00\x00"
    address = ip_address(source)
    family = b"\x21" if isinstance(address, IPv6Address) else b"\x11"
    body = address.packed * 2 + port.to_bytes(2, "big") * 2
    return SIGNATURE + b"\x21" + family + len(body).to_bytes(2, "big") + body


async def test_several_listeners_share_one_servers_sessions(tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(TCP, TCP, f"unix://{tmp_path}/gate.sock", tls) as server:
        clients = []
        for uid, endpoint in enumerate(server.endpoints, 1):
            clients.append(await RawClient.verified(endpoint, uid, context if endpoint.scheme == "tls" else None))
        assert len(server.sessions) == 4
        server.sessions.broadcast(Echo(1))
        for client in clients:
            assert await client.message() == Echo(1)
            await client.close()


@needs_ipv6
async def test_ipv6_works_like_ipv4() -> None:
    async with serving("tcp://[::1]:0") as server, closing(RawClient.verified(server, 7)):
        assert server.session(7).address == "::1"


async def test_several_connections_are_accepted_in_one_turn_of_the_loop() -> None:
    """A flood makes turns long. With one accept a turn, a player would wait in the kernel behind all of it."""
    async with serving() as server:
        sockets = [socket.create_connection((server.endpoint.host, server.endpoint.port)) for _ in range(20)]
        turns = 0
        while len(server.connections) < 20:
            await asyncio.sleep(0)
            turns += bool(server.connections)
            assert turns < 15
        for each in sockets:
            each.close()


async def test_accepted_sockets_send_small_writes_at_once(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(connection: Connection) -> None:
        plain = connection.transport.get_extra_info("socket")
        seen.append(plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key, accept=look)
    async with serving(Listen(endpoint=TCP, accept=look), tls) as server:
        for uid, endpoint in enumerate(server.endpoints, 1):
            client = await RawClient.verified(endpoint, uid, context if endpoint.scheme == "tls" else None)
            await client.close()
    assert len(seen) == 2 and all(seen)


@pytest.mark.parametrize(("limits", "seconds"), [(Limits(), 60), (Limits(max_outbox_age=90.0), 90)])
async def test_the_kernel_gives_up_a_path_that_acknowledges_nothing(limits: Limits, seconds: int) -> None:
    """Nothing else can tell, while a session is not read, that its peer is gone without a word."""
    async with serving(limits=limits) as server, closing(RawClient.verified(server, 7)):
        (connection,) = server.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1_000


async def test_a_limit_beyond_what_an_option_can_say_is_no_error() -> None:
    async with serving(limits=Limits(heartbeat_timeout=1e12)):
        pass


# -- what can't listen --


async def test_a_port_in_use_is_a_clear_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    async with serving() as server:
        before = open_sockets()
        port = server.endpoint.port
        for taken in (
            f"tcp://127.0.0.1:{port}",
            Listen(endpoint=f"tls://127.0.0.1:{port}", certificate=certificate, key=key),
        ):
            other = EchoServer(TCP, f"unix://{tmp_path}/other.sock", taken)
            with pytest.raises(ConfigError, match=rf"cannot listen on t..://127.0.0.1:{port}: Address already in use"):
                await other.start()
            assert not other.is_running
        await until(lambda: open_sockets() == before)
        assert not (tmp_path / "other.sock").exists()


async def test_what_was_opened_before_descriptors_ran_out_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = iter([True])
    dup = os.dup

    def dup_once(fd: int) -> int:
        if not next(allowed, False):
            raise OSError(errno.EMFILE, "")
        return dup(fd)

    before = open_sockets()
    monkeypatch.setattr(os, "dup", dup_once)
    with pytest.raises(ConfigError, match="Too many open files; raise ulimit -n"):
        await EchoServer(Listen(endpoint=TCP, accept=lambda connection: None)).start()  # which uvloop listens to
    await until(lambda: open_sockets() <= before)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
async def test_a_host_that_is_no_host_is_a_clear_error(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on tcp://{host}:0: (?!Unknown error).+"):
        await EchoServer(f"tcp://{host}:0").start()


async def test_listening_needs_an_endpoint_and_tls_a_certificate(tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    server = EchoServer()
    server.listen = ()
    for listen, text in (
        ((), "no place to listen"),
        (("tls://127.0.0.1:0",), "certificate"),
        ((Listen(endpoint=TCP, certificate=certificate, key=key),), "tls://"),
        ((Listen(endpoint="tls://127.0.0.1:0", certificate=key, key=key),), "certificate"),
        ((Listen(endpoint="tls://127.0.0.1:0", certificate="/nowhere.pem"),), "nowhere.pem"),
    ):
        server.listen = listen
        with pytest.raises(ConfigError, match=text):
            await server.start()


async def test_what_the_kernel_has_no_number_for_is_the_most_that_it_has() -> None:
    limits = Limits(heartbeat_timeout=inf, max_outbox_age=inf, backlog=2**31 - 1, write_high_water=2**31 - 1)
    async with serving(limits=limits) as server, closing(RawClient.verified(server, 7)) as client:
        await client.echo(1)


# -- Unix sockets --


async def test_the_socket_file_that_a_crash_left_is_replaced_and_taken_away_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    async with serving(f"unix://{path}") as server, closing(RawClient.verified(server, 7)) as client:
        await client.echo(1)
    assert not path.exists()


async def test_a_live_servers_socket_file_is_not_taken(tmp_path: Path) -> None:
    endpoint = f"unix://{tmp_path}/gate.sock"
    async with serving(endpoint) as server, neighbour(server):
        with pytest.raises(ConfigError, match="gate.sock: Address already in use"):
            await EchoServer(endpoint).start()
        client = await RawClient.verified(server, 7)
        await client.close()


async def test_a_file_that_is_no_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="gate.sock: Address already in use"):
        await EchoServer(f"unix://{path}").start()
    assert path.read_text() == "precious"


async def test_a_stopping_server_leaves_its_successors_socket_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "gate.sock"
    first, second = EchoServer(f"unix://{path}"), EchoServer(f"unix://{path}")
    await first.start()
    path.unlink()
    await second.start()
    await first.stop()
    client = await RawClient.verified(second, 7)
    await client.close()
    await second.stop()
    assert not path.exists()


# -- TLS --


async def test_what_is_not_tls_is_closed_and_counted(tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(TCP, tls) as server, neighbour(server):
        client = await RawClient.open(Endpoint("tcp", "127.0.0.1", server.endpoints[1].port))
        client.send(verify_request(7))
        await client.rest()
        await client.close()
        with pytest.raises(ssl.SSLError):
            await RawClient.open(server.endpoints[1], ssl.create_default_context())
        client = await RawClient.open(Endpoint("tcp", "127.0.0.1", server.endpoints[1].port))
        await client.close()
        await until(lambda: server.stats.refused == {"tls-handshake": 3})
        client = await RawClient.verified(server.endpoints[1], 7, context)
        await client.close()


async def test_silent_peers_of_a_tls_listener_count_and_end_at_the_deadline(tmp_path: Path) -> None:
    certificate, key, _ = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    limits = Limits(exempt=(), max_per_address=3, verify_timeout=1_000 * MS)
    async with serving(tls, limits=limits) as server:
        plain = Endpoint("tcp", "127.0.0.1", server.endpoint.port)
        silent = [await RawClient.open(plain) for _ in range(5)]
        await until(lambda: server.stats.refused["address-full"] == 2)
        assert len(server._admission.connections) == 3
        for client in silent:
            assert await client.rest() == []
            await client.close()
        assert server.stats.refused == {"address-full": 2, "verify-timeout": 3}
        assert not server._admission.connections


async def test_the_deadline_runs_on_through_the_tls_handshake(tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with serving(tls, limits=Limits(verify_timeout=1_500 * MS)) as server:
        client = await RawClient.open(server, context)
        assert await client.rest() == []
        assert server.stats.refused == {"verify-timeout": 1}
        await client.close()


# -- behind a balancer --

PROXIED = Listen(endpoint=TCP, proxies=LOOPBACK)


@pytest.mark.parametrize("source", ["203.0.113.9", "2001:db8::9"])
@pytest.mark.parametrize("pieces", ["whole", "header first", "bytes"])
async def test_the_proxy_header_gives_the_sessions_address(source: str, pieces: str) -> None:
    async with serving(PROXIED) as server, closing(RawClient.open(server)) as client:
        header, login = proxy_header(source), verify_request(7) + frame_of(Echo(1))
        match pieces:
            case "whole":
                client.send(header + login)
            case "header first":
                client.send(header)
                await until(lambda: server.logins)
                client.send(login)
            case "bytes":
                for byte in header + login:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0)
        assert (await client.frame())[0] == 2
        assert await client.message() == Echo(1)
        assert server.session(7).address == source
        assert server.sessions.at(source) == [server.session(7)]


async def test_a_local_proxy_header_leaves_the_sockets_address() -> None:
    async with serving(PROXIED) as server, closing(RawClient.open(server)) as client:
        client.send(proxy_header(None), verify_request(7))
        assert (await client.frame())[0] == 2
        assert server.session(7).address == "127.0.0.1"


@pytest.mark.parametrize(
    "first",
    [verify_request(7), b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", SIGNATURE + b"\x31\x11\x00\x00", SIGNATURE[:-1] + b"x"],
)
async def test_what_does_not_begin_with_the_header_is_refused(first: bytes) -> None:
    async with serving(PROXIED) as server:
        client = await RawClient.open(server)
        client.send(first)
        assert await client.rest() == []
        assert server.stats.refused == {"proxy-header": 1}
        await client.close()
        assert not server._admission.connections


async def test_only_the_balancer_is_listened_to() -> None:
    async with serving(Listen(endpoint=TCP, proxies=("10.0.0.0/8",))) as server:
        client = await RawClient.open(server)
        client.send(proxy_header("203.0.113.9"), verify_request(7))
        assert await client.rest() == []
        assert server.stats.refused == {"not-a-proxy": 1} and server.stats.accepted == 0
        await client.close()


async def test_addresses_behind_the_balancer_are_limited_each_for_itself() -> None:
    async with serving(PROXIED, limits=Limits(max_per_address=2)) as server:
        clients = []
        for uid, source in enumerate(["203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.1"], 1):
            client = await RawClient.open(server)
            client.send(proxy_header(source), verify_request(uid))
            if uid < 4:
                assert (await client.frame())[0] == 2
            else:
                assert await client.rest() == []
            clients.append(client)
        assert server.stats.refused == {"address-full": 1}
        for client in clients:
            await client.close()
        await until(lambda: not server._admission.connections)
        assert len(server._admission._addresses) == 0


async def test_a_header_that_never_comes_ends_at_the_deadline_which_runs_on_after_it() -> None:
    async with serving(PROXIED, limits=Limits(verify_timeout=300 * MS)) as server:
        silent, half = await RawClient.open(server), await RawClient.open(server)
        half.send(proxy_header("203.0.113.9"))
        for client in (silent, half):
            assert await client.rest() == []
            await client.close()
        assert server.stats.refused == {"verify-timeout": 2}


# -- limits --


async def test_connections_over_the_servers_limit_are_refused_until_one_leaves() -> None:
    async with serving(TCP, TCP, limits=Limits(max_connections=2)) as server:
        first = await RawClient.verified(server.endpoints[0], 1)
        second = await RawClient.verified(server.endpoints[1], 2)
        third = await RawClient.open(server)
        assert await third.rest() == []
        assert server.stats.refused == {"server-full": 1}
        await first.echo(1)
        await first.close()
        await until(lambda: len(server._admission.connections) == 1)
        fourth = await RawClient.verified(server, 4)
        for client in (second, third, fourth):
            await client.close()


async def test_connections_of_one_address_are_limited_unless_it_is_exempt() -> None:
    async with serving(limits=Limits(max_per_address=2, exempt=())) as server:
        clients = [await RawClient.verified(server, uid) for uid in (1, 2)]
        third = await RawClient.open(server)
        assert await third.rest() == []
        assert server.stats.refused == {"address-full": 1}
        for client in (*clients, third):
            await client.close()
        await until(lambda: not server._admission.connections)
        again = await RawClient.verified(server, 3)
        await again.close()
    async with serving(limits=Limits(max_per_address=2)) as server:
        clients = [await RawClient.verified(server, uid) for uid in (1, 2, 3)]
        for client in clients:
            await client.close()


# -- the accept hook --


@pytest.mark.parametrize("answer", ["False", "raises", "drops"])
async def test_the_accept_hook_refuses(answer: str) -> None:
    def hook(connection: Connection) -> bool:
        assert connection.address == "127.0.0.1"
        if answer == "raises":
            raise RuntimeError("on purpose")
        if answer == "drops":
            connection.drop()
        return answer == "drops"

    async with serving(Listen(endpoint=TCP, accept=hook), TCP) as server:
        client = await RawClient.open(server)
        client.send(verify_request(7))
        assert await client.rest() == []
        await client.close()
        await until(lambda: not server._admission.connections)
        assert server.stats.refused == ({} if answer == "drops" else {"accept-hook": 1})
        other = await RawClient.verified(server.endpoints[1], 7)
        await other.close()


@pytest.mark.parametrize("scheme", ["tcp", "proxied", "tls"])
async def test_the_accept_hook_hands_the_stream_to_another_protocol(scheme: str, tmp_path: Path) -> None:
    class Shout(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data.upper())  # type: ignore[attr-defined]

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    lost = asyncio.Event()
    context: ssl.SSLContext | None = None

    def hook(connection: Connection) -> None:
        connection.hand_over(Shout())

    if scheme == "tls":
        certificate, key, context = make_certificate(tmp_path)
        listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key, accept=hook)
    else:
        listen = Listen(endpoint=TCP, accept=hook, proxies=LOOPBACK if scheme == "proxied" else ())
    async with serving(listen) as server:
        client = await RawClient.open(server, context)
        if scheme == "proxied":
            client.send(proxy_header("203.0.113.9"), b"he")
        else:
            client.send(b"he")
        client.send(b"llo")
        assert await client.reader.readexactly(5) == b"HELLO"
        assert not server._admission.connections and not server.logins  # it counts against nothing
        await client.close()
        await lost.wait()


async def test_a_protocol_that_fails_when_it_is_handed_the_stream_closes_it() -> None:
    class Failing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise RuntimeError("on purpose")

    def hook(connection: Connection) -> None:
        connection.hand_over(Failing())

    async with serving(Listen(endpoint=TCP, accept=hook)) as server, closing(RawClient.open(server)) as client:
        assert await client.rest() == []
        assert server.stats.refused == {"accept-hook": 1}


async def test_a_hook_sees_nobody_that_the_limits_refuse() -> None:
    seen: list[Connection] = []
    listen = Listen(endpoint=TCP, accept=seen.append)
    async with serving(listen, limits=Limits(max_connections=1)) as server:
        first, second = await RawClient.verified(server, 1), await RawClient.open(server)
        await second.rest()
        assert len(seen) == 1
        for client in (first, second):
            await client.close()


async def test_running_out_of_descriptors_costs_no_connected_client() -> None:
    """Accepting fails for a while, and goes on by itself."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as server, neighbour(server):
        client = await RawClient.open(server)
        plain = [socket.socket() for _ in range(8)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            for one in plain:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", server.endpoint.port))
            for _ in range(20):
                await asyncio.sleep(5 * MS)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in plain:
            one.close()
        client.send(verify_request(7))
        await client.frame()
        again = await RawClient.verified(server, 8)
        await client.close()
        await again.close()


@pytest.mark.parametrize("how", ["verified", "unverified", "handed over"])
@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_closed_tls_connection_is_freed_without_the_garbage_collector(
    how: str, scheme: str, tmp_path: Path
) -> None:
    """One that waits for the collector keeps the transport's buffers, 0.3 MB."""
    certificate, key, context = make_certificate(tmp_path)

    def take_over(connection: Connection) -> None:
        if how == "handed over":
            connection.hand_over(asyncio.Protocol())

    tls = Listen(endpoint=f"{scheme}://127.0.0.1:0", certificate=certificate, key=key, accept=take_over)
    async with serving(tls, limits=Limits(base_linger=0.001)) as server:
        gc.collect()
        gc.disable()
        try:
            async with WebClient.open(server.endpoint, context) as client:
                if scheme == "wss":
                    client.send(request())
                    await client.reader.readuntil(b"\r\n\r\n")
                data = verify_request(7) if how == "verified" else verify_request(7)[:9]
                client.send(ws_frame(BINARY, data) if scheme == "wss" else data)
                if how == "verified":
                    await until(lambda: server.sessions.get(7))
                else:
                    await until(lambda: server.stats.accepted)
            await until(lambda: not any(type(each) is TlsConnection for each in gc.get_objects()))
        finally:
            gc.enable()
