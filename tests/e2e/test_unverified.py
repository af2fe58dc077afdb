"""Peers that are not verified: how many there may be, the first to go, and what an address is refused for."""

import asyncio
import gc
import ssl
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import MethodType

import pytest

from gatelink import (
    Backoff,
    CloseCode,
    ConnectError,
    Identity,
    Limits,
    Listen,
    Server,
    ServerKey,
    StaticTokens,
    connect,
)
from gatelink.net.acceptor import Acceptor, UnverifiedReader
from gatelink.net.connection import Connection
from gatelink.net.login import Login
from gatelink.net.step_queue import STEPS_A_TURN
from gatelink.wire.base import VERIFY_SUCCEEDED
from gatelink.wire.control import Handshake, Hello
from gatelink.wire.handshake import Initiator
from tests.e2e.extension import ExtendedClient, closed
from tests.e2e.support import (
    CATALOG,
    TCP,
    VERIFY_FAILED_FRAME,
    Echo,
    EchoServer,
    RawClient,
    closing,
    frame_of,
    leave,
    make_certificate,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.support import MS

KEY = ServerKey.generate()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listen, ssl.SSLContext]:
    folder: Path = tmp_path_factory.mktemp("certificate")
    pem, key, context = make_certificate(folder)
    return Listen(endpoint="tls://127.0.0.1:0", certificate=pem, key=key), context


async def close_all(clients: Sequence[RawClient]) -> None:
    for client in clients:
        await client.close()


# -- a crowd that logs in at once --


@pytest.mark.parametrize("is_sealed", [False, True], ids=["plain", "sealed"])
async def test_a_crowd_gets_its_share_of_a_turn_and_loses_nothing_that_it_sent(
    is_sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 clients send their login in the same moment; the plain ones with more messages behind it than may wait."""
    turn = 0
    steps: Counter[int] = Counter()  # by turn of the loop
    handshakes: Counter[int] = Counter()
    go_on, shake_hands = Login.go_on, Login._shake_hands

    def counted_step(login: Login) -> None:
        steps[turn] += 1
        go_on(login)

    def counted_handshake(login: Login, record: Handshake) -> None:
        handshakes[turn] += 1
        shake_hands(login, record)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Login, "go_on", counted_step)
    monkeypatch.setattr(Login, "_shake_hands", counted_handshake)
    async with serving(keys=[KEY], limits=Limits(max_unverified_frames=4, verify_timeout=60)) as server:
        crowd = [await ExtendedClient.open(server) for _ in range(200)]
        await until(lambda: len(server.connections) == 200)
        counting = asyncio.create_task(count_turns())
        initiators = [Initiator(KEY.public, Hello()) for _ in crowd]
        for uid, (client, initiator) in enumerate(zip(crowd, initiators, strict=True), 1):
            if is_sealed:
                client.writer.write(initiator.frame)
            else:
                client.send(verify_request(uid), *(frame_of(Echo(n)) for n in range(10)))
        for uid, client in enumerate(crowd, 1):
            if is_sealed:
                continue
            assert (await client.frame())[0] == VERIFY_SUCCEEDED, uid
            assert [await client.message() for _ in range(10)] == [Echo(n) for n in range(10)]
        if is_sealed:
            await until(lambda: handshakes.total() == len(crowd))
            assert max(handshakes.values()) == 1
        counting.cancel()
        assert steps.total() >= len(crowd) and max(steps.values()) <= STEPS_A_TURN
        await close_all(crowd)


async def test_a_login_that_succeeds_while_its_client_waits_for_a_turn_is_read_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client sent messages behind its token, in a turn of the loop that others had."""
    gate = asyncio.Event()

    class Slow(StaticTokens):
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            await gate.wait()
            return await super().verify(token, uid, source, address)

    async with serving(tokens=Slow()) as server:
        client = await ExtendedClient.extended(server)
        client.send(verify_request(7))
        await until(lambda: server.logins and not server._admission.unverified)
        with monkeypatch.context() as patch:
            patch.setattr("gatelink.net.step_queue.STEPS_A_TURN", 0)  # others have all turns
            client.send(frame_of(Echo(1)))
            await until(lambda: server._admission.steps._late)
            gate.set()
            await until(lambda: len(server.sessions) == 1)
        client.send(frame_of(Echo(2)))
        assert (await client.frame())[0] == VERIFY_SUCCEEDED
        assert [await client.message() for _ in range(2)] == [Echo(1), Echo(2)]
        await client.close()


# -- how many there may be, and the first to go --


async def test_five_hundred_silent_clients_keep_nobody_out() -> None:
    """There is room for 50, for an hour each; a client that logs in still gets in."""
    async with serving(limits=Limits(max_unverified=50, verify_timeout=3_600)) as server, neighbour(server):
        silent: list[RawClient] = []
        for uid in range(5):
            silent += [await RawClient.open(server) for _ in range(100)]
            client = await RawClient.verified(server, 7 + uid)
            await client.echo(1)
            silent.append(client)
        assert server.stats.refused["unverified-full"] >= 400
        assert len(server._admission.unverified) <= 50
        assert len(server.sessions) == 6
        await close_all(silent)


async def test_the_one_that_came_first_has_to_go_whatever_it_trickles() -> None:
    async with serving(limits=Limits(max_unverified=2)) as server:
        first, second = await RawClient.open(server), await RawClient.open(server)
        first.send(verify_request(7)[:-1])
        await until(lambda: len(server._admission.unverified) == 2)
        third = await RawClient.open(server)
        assert await first.rest() == []
        second.send(verify_request(8))
        await second.frame()
        await close_all([first, second, third])


async def test_a_client_whose_token_is_being_checked_may_stay() -> None:
    """A token backend that is slow is not the client's fault."""
    gate = asyncio.Event()

    class Slow(StaticTokens):
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            await gate.wait()
            return await super().verify(token, uid, source, address)

    async with serving(limits=Limits(max_unverified=2), tokens=Slow()) as server:
        client = await RawClient.open(server)
        client.send(verify_request(7))
        await until(lambda: server.logins and not server._admission.unverified)
        silent = [await RawClient.open(server) for _ in range(10)]
        await until(lambda: server.stats.refused["unverified-full"] == 8)
        gate.set()
        await client.frame()
        await close_all([client, *silent])


async def test_one_address_has_its_share_and_its_own_oldest_has_to_go() -> None:
    limits = Limits(exempt=(), max_unverified_per_address=3)
    async with serving(limits=limits) as server:
        silent = [await RawClient.open(server) for _ in range(10)]
        await until(lambda: server.stats.refused == {"unverified-full": 7})
        for gone in silent[:7]:
            assert await gone.rest() == []
        client = await RawClient.verified(server, 7)
        await close_all([client, *silent])
        await until(lambda: not server._admission.connections)
        assert not server._admission.unverified and not server._admission._unverified_of


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
async def test_a_client_that_has_said_hello_is_told_4010(key: ServerKey | None) -> None:
    async with serving(limits=Limits(max_unverified=1), keys=[KEY]) as server:
        first = await ExtendedClient.extended(server, key.public if key else None)
        second = await RawClient.open(server)
        assert await first.end() == [closed(CloseCode.SERVER_FULL)]
        await close_all([first, second])


async def lingering(server: EchoServer, count: int, key: bytes | None) -> list[RawClient]:
    """Refused clients that keep their connections open: of the base protocol, or with `key` of the extension."""
    clients: list[RawClient] = []
    for _ in range(count):
        before = server.stats.refused["verify-failed"]
        client = await (RawClient.open(server) if key is None else ExtendedClient.extended(server, key))
        client.send(verify_request(8, b"wrong"))
        await until(lambda before=before: server.stats.refused["verify-failed"] > before)  # type: ignore[misc]
        clients.append(client)
    return clients


@pytest.mark.parametrize("key", [None, KEY.public], ids=["base", "sealed"])
async def test_refused_peers_that_do_not_leave_count_and_are_the_first_to_go(key: bytes | None) -> None:
    limits = Limits(max_unverified=10, base_linger=3_600, close_timeout=3_600, verify_timeout=3_600)
    async with serving(limits=limits, keys=[KEY]) as server:
        waits = await RawClient.open(server)  # older than all of them, and not refused
        await until(lambda: len(server._admission.unverified) == 1)
        stay = await lingering(server, 60, key)
        await until(lambda: len(server._admission.connections) <= 11)
        newcomers = [await RawClient.open(server) for _ in range(9)]
        await until(lambda: server.stats.accepted == 70 and len(server._admission.unverified) <= 11)
        assert "unverified-full" not in server.stats.refused, "a refused one is refused once"
        waits.send(verify_request(7))
        assert (await waits.frame())[0] == 2
        await close_all([waits, *stay, *newcomers])
        await until(lambda: not server._admission.connections)
        assert not server._admission.unverified


async def test_refused_peers_of_one_address_take_the_share_of_that_address() -> None:
    limits = Limits(exempt=(), max_unverified_per_address=1, base_linger=3_600, close_timeout=3_600, free_failures=100)
    async with serving(limits=limits) as server:
        stay = await lingering(server, 20, None)
        await until(lambda: len(server._admission.connections) <= 2)
        client = await RawClient.verified(server, 7)
        await close_all([client, *stay])
        await until(lambda: not server._admission.connections)
        assert not server._admission.unverified and not server._admission._unverified_of


async def test_a_silent_client_in_tls_has_to_go_too(certificate: tuple[Listen, ssl.SSLContext]) -> None:
    listen, context = certificate
    async with serving(listen, limits=Limits(max_unverified=5)) as server:
        endpoint = server.endpoint
        silent = []
        for _ in range(20):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            silent.append(RawClient(reader, writer))
        await until(lambda: server.stats.refused["unverified-full"] == 15)
        client = await RawClient.verified(server, 7, context)
        await client.echo(1)
        await close_all([client, *silent])
        await until(lambda: not server._admission.connections)


async def test_a_client_that_is_silent_before_the_proxy_header_has_to_go_too() -> None:
    listen = Listen(endpoint=TCP, proxies=("127.0.0.0/8",))
    async with serving(listen, limits=Limits(max_unverified=5)) as server:
        silent = [await RawClient.open(server) for _ in range(20)]
        await until(lambda: server.stats.refused["unverified-full"] == 15)
        await close_all(silent)
        await until(lambda: not server._admission.connections)


# -- how often one address may connect --


async def test_an_address_connects_its_burst_at_once_and_then_at_its_rate() -> None:
    limits = Limits(exempt=(), connect_rate=2, connect_burst=10)
    async with serving(limits=limits) as server:
        began = asyncio.get_running_loop().time()
        clients = [await RawClient.open(server) for _ in range(15)]
        await until(lambda: server.stats.accepted + server.stats.refused["address-rate"] == 15)
        seconds = asyncio.get_running_loop().time() - began
        assert 10 <= len(server._admission.connections) == server.stats.accepted <= 10 + 2 * seconds
        await close_all(clients)
        await until(lambda: not server._admission.connections)
        while True:  # half a second a connection
            client = await RawClient.open(server)
            client.send(verify_request(7))
            frames = await client.reader.read(1)
            await client.close()
            if frames:
                break
            await asyncio.sleep(50 * MS)


# -- failures, and bans --


async def fail(server: EchoServer, data: bytes) -> None:
    client = await RawClient.open(server)
    client.send(data)
    await client.rest()
    await client.close()


@pytest.mark.parametrize("data", [verify_request(7, b"guess"), b"GET / HTTP/1.1\r\n\r\n", bytes(3_000)])
async def test_failures_ban_an_address_for_a_short_while(data: bytes) -> None:
    limits = Limits(exempt=(), free_failures=2, ban_first=1.5)
    async with serving(limits=limits) as server, neighbour(server):
        for _ in range(3):
            await fail(server, data)
        assert server.stats.bans == 1 and server._admission.banned() == 1
        good = await RawClient.open(server)
        assert await good.rest() == []
        assert server.stats.refused["address-banned"] == 1
        await until(lambda: server._admission.banned() == 0)
        again = await RawClient.verified(server, 7)
        await close_all([good, again])


async def test_logins_that_succeed_make_up_for_those_that_fail() -> None:
    limits = Limits(exempt=(), free_failures=2, ban_first=60)
    async with serving(limits=limits) as server:
        for uid in range(20):
            await fail(server, verify_request(7, b"guess"))
            client = await RawClient.verified(server, uid)
            await client.close()
        assert server.stats.bans == 0


async def test_so_do_sessions_that_are_resumed() -> None:
    """Players whose connections break at times log in once a day."""
    limits = Limits(exempt=(), free_failures=2, ban_first=60)
    async with serving(limits=limits, keys=[KEY]) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        for attempt in range(1, 10):
            await fail(server, verify_request(7, b"guess"))
            again = await ExtendedClient.extended(server, KEY.public)
            again.resume(client.ticket, 0, attempt)
            await again.resumed(client.ticket, attempt)
            await client.close()
            again.ticket, client = client.ticket, again
        assert server.stats.bans == 0
        await client.close()


async def test_what_is_not_the_clients_fault_bans_nobody() -> None:
    """A deadline, a token backend that fails, a session that is not there to be resumed."""

    class Broken:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            raise RuntimeError("the database is away")

    limits = Limits(exempt=(), free_failures=1, verify_timeout=1_500 * MS)
    async with serving(limits=limits, tokens=Broken()) as server:
        silent = [await RawClient.open(server) for _ in range(5)]
        for _ in range(5):
            await fail(server, verify_request(7))
        for each in silent:
            assert await each.rest() == []
            await each.close()
        assert server.stats.refused == {"tokens-unavailable": 5, "verify-timeout": 5}
        assert server.stats.bans == 0


# -- handshakes --


async def test_handshakes_over_the_rate_wait_in_order_and_others_do_not() -> None:
    limits = Limits(handshake_rate=4, handshake_burst=5)
    async with serving(limits=limits, keys=[KEY]) as server, neighbour(server):
        clients = [await RawClient.open(server) for _ in range(15)]
        order: list[int] = []

        async def answered(n: int) -> None:
            await clients[n].reader.readexactly(10)
            order.append(n)

        waiting = []
        for n, client in enumerate(clients):
            client.send(Initiator(KEY.public, Hello()).frame)
            waiting.append(asyncio.create_task(answered(n)))
            await asyncio.sleep(MS)
        assert len(server._admission.handshakes) >= 5
        plain = await RawClient.verified(server, 7)
        assert len(server._admission.handshakes) >= 1
        await asyncio.gather(*waiting)
        assert order == list(range(15)) and len(server._admission.handshakes) == 0
        await close_all([plain, *clients])


async def test_tls_handshakes_wait_in_the_same_line(certificate: tuple[Listen, ssl.SSLContext]) -> None:
    listen, context = certificate
    async with serving(listen, limits=Limits(handshake_rate=10, handshake_burst=2)) as server:
        start = asyncio.get_running_loop().time()
        clients = await asyncio.gather(*(RawClient.verified(server, uid, context) for uid in range(6)))
        assert asyncio.get_running_loop().time() - start >= 0.3
        await close_all(list(clients))


async def in_line(server: Server) -> list[RawClient]:
    """Three clients, two on TCP and one on TLS. The first has had its handshake, the others wait for theirs."""
    tls, tcp = server.endpoints
    clients = []
    for endpoint in (tcp, tcp, tls):
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        clients.append(RawClient(reader, writer))
        if endpoint is tcp:
            clients[-1].send(Initiator(KEY.public, Hello()).frame)
    await until(lambda: len(server._admission.handshakes) == 2)
    return clients


async def test_a_client_that_waits_for_a_handshake_waits_until_the_deadline(
    certificate: tuple[Listen, ssl.SSLContext],
) -> None:
    listen, _ = certificate
    limits = Limits(handshake_rate=0.01, handshake_burst=1, verify_timeout=1_500 * MS, close_timeout=200 * MS)
    async with serving(listen, TCP, limits=limits, keys=[KEY]) as server:
        clients = await in_line(server)
        await until(lambda: server.stats.refused["verify-timeout"] == 3)
        await until(lambda: not server._admission.connections)
        assert len(server._admission.handshakes) == 0
        await close_all(clients)


async def test_a_client_that_leaves_the_line_leaves_nothing_behind(certificate: tuple[Listen, ssl.SSLContext]) -> None:
    listen, _ = certificate
    async with serving(listen, TCP, limits=Limits(handshake_rate=0.01, handshake_burst=1), keys=[KEY]) as server:
        clients = await in_line(server)
        clients[1].reset()
        await until(lambda: len(server._admission.handshakes) == 1)
        await server.stop(0)  # the TLS one waits yet
        assert len(server._admission.handshakes) == 0 and not server._admission.connections
        await close_all(clients)


# -- peers that are told why --


async def test_a_server_that_stops_tells_clients_that_are_being_verified_4011() -> None:
    async with serving() as server:
        client = await ExtendedClient.extended(server)
        base = await RawClient.open(server)
        await until(lambda: len(server.logins) == 2)
        stopping = asyncio.create_task(server.stop())
        assert await client.end() == [closed(CloseCode.GOING_AWAY)]
        assert await base.rest() == []
        await close_all([client, base])
        await stopping


async def test_a_token_backend_that_fails_is_told_as_4013() -> None:
    class Broken:
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            raise RuntimeError("the database is away")

    async with serving(tokens=Broken()) as server:
        client = await ExtendedClient.extended(server)
        client.send(verify_request(7))
        assert await client.end() == [closed(CloseCode.INTERNAL_ERROR)]
        base = await RawClient.open(server)
        base.send(verify_request(7))
        assert await base.rest() == []
        await close_all([client, base])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes([255, 255, 0, 0]), CloseCode.FRAME_TOO_LARGE),
        (bytes([9, 0, 0, 0]) + bytes(9), CloseCode.PROTOCOL_ERROR),
        (verify_request(7)[:-1] * 5, CloseCode.PROTOCOL_ERROR),
    ],
)
async def test_what_is_wrong_after_hello_is_told(data: bytes, code: CloseCode) -> None:
    async with serving() as server, closing(ExtendedClient.extended(server)) as client:
        client.send(data)
        assert await client.end() == [closed(code)]


async def test_a_wrong_token_after_hello_is_told_as_a_base_client_is_and_with_4001() -> None:
    async with serving() as server:
        client = await ExtendedClient.extended(server)
        client.send(verify_request(7, b"guess"))
        assert await client.end() == [(3, 0, b""), closed(CloseCode.VERIFY_FAILED)]
        base = await RawClient.open(server)
        base.send(verify_request(7, b"guess"))
        assert await base.rest_bytes() == VERIFY_FAILED_FRAME
        await close_all([client, base])


# -- the application's version --


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
async def test_a_client_that_is_too_old_is_told_4014(key: ServerKey | None) -> None:
    seen: list[str] = []

    def is_current(version: str) -> bool:
        seen.append(version)
        return version >= "2"

    async with serving(keys=[KEY], accept_version=is_current) as server:
        for version, accepted in (("1.9", False), ("", False), ("2.1", True)):
            client = await ExtendedClient.open(server)
            hello = Hello(app_version=version)
            if key is None:
                client.say(hello)
                await client.control()
            else:
                await client.shake_hands(Initiator(key.public, hello))
            if accepted:
                client.send(verify_request(7))
                assert (await client.frame())[0] == 2
            else:
                assert await client.end() == [closed(CloseCode.CLIENT_TOO_OLD)]
            await client.close()
        assert seen == ["1.9", "", "2.1"]
        assert server.stats.refused["client-too-old"] == 2
        base = await RawClient.verified(server, 8)  # says no version, and is not asked
        await base.close()


async def test_our_own_client_is_told_that_it_is_too_old() -> None:
    for key in (None, KEY.public):
        async with serving(keys=[KEY], accept_version=lambda version: False) as server:
            with pytest.raises(ConnectError, match="client-too-old") as told:
                await connect(str(server.endpoint), uid=7, token=token_of(7).decode(), server_key=key)
            assert told.value.code is CloseCode.CLIENT_TOO_OLD


async def test_a_client_that_reconnects_comes_again_when_the_tokens_can_not_be_checked_for_a_while() -> None:
    """4013 before the verdict says nothing of the session."""
    away = False

    class Tokens(StaticTokens):
        async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
            if away:
                raise RuntimeError("the database is away")
            return await super().verify(token, uid, source, address)

    async with serving(tokens=Tokens()) as server:
        soon = Backoff(first=10 * MS, most=10 * MS, attempts=1_000)
        token = token_of(7).decode()
        session = await connect(str(server.endpoint), uid=7, token=token, reconnect=soon, catalog=CATALOG)
        away = True
        server.session(7).abort()
        await until(lambda: server.stats.refused["tokens-unavailable"] >= 3)
        away = False
        await until(lambda: server.stats.verified == 2)
        assert session.close_code is None
        await leave(session)


async def test_a_check_of_the_version_that_fails_lets_nobody_in(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(version: str) -> bool:
        raise ValueError("no such version")

    async with serving(accept_version=fails) as server, closing(ExtendedClient.extended(server)) as client:
        assert await client.end() == [closed(CloseCode.CLIENT_TOO_OLD)]
    assert "accept_version failed" in capsys.readouterr().out


HOOKED = Listen(endpoint=TCP, accept=lambda connection: None)
"""A listener whose connections have transports on both cores."""


async def test_nothing_of_how_it_was_accepted_stays_with_a_verified_connection() -> None:
    async with serving(HOOKED) as server, closing(RawClient.verified(server, 7)) as client:
        await client.echo(1)
        (connection,) = server.connections
        assert isinstance(connection, Connection)
        methods = [each for each in gc.get_referents(connection) if isinstance(each, MethodType)]
        assert methods and not [each for each in methods if isinstance(each.__self__, Acceptor)]
        assert not hasattr(UnverifiedReader(connection, memoryview(bytearray())), "__dict__"), "uvloop keeps it"
