"""Every fault of the chaos proxy, with real sockets on both event loops, against a plain echo server."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Self, cast

import pytest
import uvloop

from examples.demo import reserved_ports
from gatelink.errors import ConfigError
from gatelink.testing import ChaosProxy, Delay, Drop, FakeClock, Fault, HalfClose, Refuse, Reset, Split, Stall
from gatelink.testing.faults import Direction
from tests.support import MS, TEST_TIMEOUT

TICK = 0.05  # s of a delay
LONG = 1_500 * MS  # of a stall or refusal, during which something must be seen
FOREVER = 3_600.0

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on one of the loops; fails if it takes too long, or the loop saw an error that nobody handled."""

    def runner(test: Coroutine[Any, Any, None]) -> None:
        errors: list[dict[str, Any]] = []

        async def limited() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            async with asyncio.timeout(TEST_TIMEOUT):
                try:
                    await test
                finally:
                    await Peer.close_all()

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(limited())
        assert errors == []

    return runner


class Peer(asyncio.Protocol):
    """A socket that remembers all that happens to it. It leaves its own direction open when the other one ends."""

    opened: ClassVar[list["Peer"]] = []
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.received = 0
        self.ended = False
        self.lost = False
        self.error: Exception | None = None
        self._changed = asyncio.Event()

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Self:
        _, peer = await asyncio.get_running_loop().create_connection(cls, *address)
        return peer

    @classmethod
    async def close_all(cls) -> None:
        while cls.opened:
            peer = cls.opened.pop()
            peer.transport.abort()
            await peer.gone()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no asyncio.Transport by inheritance
        self.transport = cast(asyncio.Transport, transport)
        self.opened.append(self)

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self.received += len(data)
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.lost, self.error = True, error
        self._changed.set()

    def resume_writing(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def gone(self) -> None:
        await self.until(lambda: self.lost)

    async def flushed(self) -> None:
        """When all that was written is in the kernel's hands."""
        self.transport.set_write_buffer_limits(high=0)
        await self.until(lambda: self.transport.get_write_buffer_size() == 0)

    async def first(self, count: int) -> bytes:
        """The first `count` bytes, when they are there."""
        await self.until(lambda: self.received >= count)
        return b"".join(self.chunks)[:count]

    async def reset(self) -> None:
        await self.gone()
        assert isinstance(self.error, ConnectionResetError)

    async def echoes(self, data: bytes = b"ping") -> None:
        before = self.received
        self.transport.write(data)
        assert (await self.first(before + len(data)))[before:] == data


class EchoPeer(Peer):
    def __init__(self, accepted: Callable[["EchoPeer"], None]) -> None:
        super().__init__()
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._accepted(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)

    def eof_received(self) -> bool:
        super().eof_received()
        return False


class EchoServer:
    """Its peers are in the order in which they were accepted."""

    address: tuple[str, int]

    def __init__(self) -> None:
        self.peers: list[EchoPeer] = []
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: EchoPeer(self._accepted), "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _accepted(self, peer: EchoPeer) -> None:
        self.peers.append(peer)
        self._arrived.set()

    async def peer(self, number: int) -> EchoPeer:
        """The one accepted as `number`, counted from 1, when it is there."""
        while len(self.peers) < number:
            self._arrived.clear()
            await self._arrived.wait()
        return self.peers[number - 1]


@asynccontextmanager
async def path(*script: Fault, **options: Any) -> AsyncIterator[tuple[EchoServer, ChaosProxy]]:
    """An echo server and a proxy before it, with `script`."""
    async with EchoServer() as server, ChaosProxy(server.address, script, **options) as proxy:
        yield server, proxy


def test_without_faults_a_stream_passes_unchanged_and_is_counted(run: Run) -> None:
    async def test() -> None:
        async with path() as (_, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes(os.urandom(3_000_000))
            assert (proxy.connections, proxy.bytes_up, proxy.bytes_down) == (1, 3_000_000, 3_000_000)
            assert proxy.breaks == 0

    run(test())


def test_an_end_of_stream_passes_and_the_other_direction_goes_on(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            client = await Peer.connect(proxy.address)
            client.transport.write(b"last words")
            client.transport.write_eof()
            assert await client.first(10) == b"last words"
            await client.until(lambda: client.ended)
            peer = await server.peer(1)
            assert peer.ended and b"".join(peer.chunks) == b"last words"
            await peer.gone()
            assert (peer.error, proxy.breaks) == (None, 0)

    run(test())


def test_a_reset_by_one_side_reaches_the_other_after_its_last_bytes(run: Run) -> None:
    async def test() -> None:
        async with path(Delay(TICK)) as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes()
            peer = await server.peer(1)
            client.transport.write(b"last words")
            await peer.first(14)
            linger_0 = struct.pack("ii", 1, 0)
            client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
            client.transport.abort()
            await peer.reset()
            assert proxy.breaks == 0

    run(test())


def test_a_target_that_does_not_listen_resets_the_client(run: Run) -> None:
    async def test() -> None:
        with reserved_ports() as nobodys:
            async with ChaosProxy(("127.0.0.1", nobodys)) as proxy:
                client = await Peer.connect(proxy.address)
                await client.reset()

    run(test())


def test_delay_holds_back_every_byte_in_order(run: Run) -> None:
    async def test() -> None:
        async with path(Delay(TICK, jitter=TICK)) as (_, proxy):
            client = await Peer.connect(proxy.address)
            seen: list[str] = []
            asyncio.get_running_loop().call_later(1.9 * TICK, seen.append, "two delays less a little")
            for number in range(100):
                client.transport.write(b"%03d" % number)
                await asyncio.sleep(0)
            await client.first(300)
            seen.append("echo")
            assert b"".join(client.chunks) == b"".join(b"%03d" % number for number in range(100))
            assert seen == ["two delays less a little", "echo"]

    run(test())


@pytest.mark.parametrize(("direction", "largest"), [("up", 1), ("down", 7), ("both", 3)])
def test_split_writes_pieces(run: Run, direction: Direction, largest: int) -> None:
    async def test() -> None:
        async with path(Split(largest, direction=direction)) as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes(bytes(range(200)))
            peer = await server.peer(1)
            assert direction == "down" or max(map(len, peer.chunks)) == largest
            assert direction == "up" or max(map(len, client.chunks)) == largest
            assert direction != "down" or len(peer.chunks) == 1

    run(test())


def test_stall_keeps_bytes_and_delivers_them_after_it(run: Run) -> None:
    async def test() -> None:
        async with path(Stall(LONG, after_bytes=10, direction="up")) as (server, proxy):
            client = await Peer.connect(proxy.address)
            client.transport.write(bytes(100))
            peer = await server.peer(1)
            await peer.until(lambda: peer.received >= 10)
            assert peer.received == 10
            await client.first(100)

    run(test())


def test_half_close_ends_one_direction_and_the_other_goes_on(run: Run) -> None:
    async def test() -> None:
        async with path(HalfClose(direction="down", after_bytes=5)) as (server, proxy):
            client = await Peer.connect(proxy.address)
            client.transport.write(b"hello world")
            await client.until(lambda: client.ended)
            assert b"".join(client.chunks) == b"hello"
            client.transport.write(b", again")
            assert await (await server.peer(1)).first(18) == b"hello world, again"
            assert (client.received, client.lost, proxy.breaks) == (5, False, 1)

    run(test())


def test_a_half_close_on_command_ends_one_direction_of_the_connections_there_are(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes(b"hello")
            proxy.half_close("down")
            await client.until(lambda: client.ended)
            client.transport.write(b", again")
            assert await (await server.peer(1)).first(12) == b"hello, again"
            assert (client.received, client.lost, proxy.breaks_by) == (5, False, {"half-close": 1})
            await (await Peer.connect(proxy.address)).echoes()

    run(test())


def test_half_close_of_both_directions_ends_the_connection_without_a_reset(run: Run) -> None:
    async def test() -> None:
        async with path(HalfClose(after_seconds=TICK)) as (server, proxy):
            client = await Peer.connect(proxy.address)
            peer = await server.peer(1)
            await client.until(lambda: client.ended)
            await peer.gone()
            client.transport.close()
            await client.gone()
            assert (client.error, peer.error, proxy.breaks) == (None, None, 1)

    run(test())


def test_reset_cuts_between_two_exact_bytes(run: Run) -> None:
    async def test() -> None:
        async with path(Reset(after_bytes=777_777, direction="down")) as (server, proxy):
            client = await Peer.connect(proxy.address)
            peer = await server.peer(1)
            peer.transport.write(bytes(1_000_000))
            await client.reset()
            await peer.reset()
            assert (client.received, proxy.bytes_down, proxy.breaks) == (777_777, 777_777, 1)

    run(test())


def test_reset_by_time_strikes_an_idle_connection(run: Run) -> None:
    async def test() -> None:
        async with path(Reset(after_seconds=TICK)) as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.reset()
            await (await server.peer(1)).reset()

    run(test())


def test_reset_at_random_times_strikes_every_connection(run: Run) -> None:
    async def test() -> None:
        async with path(Reset(mean_seconds=TICK)) as (_, proxy):
            clients = [await Peer.connect(proxy.address) for _ in range(10)]
            for client in clients:
                await client.reset()
            assert proxy.breaks == 10

    run(test())


def test_a_fault_for_one_connection_leaves_the_others_alone(run: Run) -> None:
    async def test() -> None:
        async with path(Reset(connection=2, after_bytes=1)) as (_, proxy):
            clients = [await Peer.connect(proxy.address) for _ in range(3)]
            clients[1].transport.write(b"x")
            await clients[1].reset()
            await clients[0].echoes()
            await clients[2].echoes()
            assert proxy.breaks == 1

    run(test())


def test_a_function_gives_each_connection_its_own_script(run: Run) -> None:
    async def test() -> None:
        async with EchoServer() as server:
            asked: list[int] = []

            def script(number: int) -> list[Fault]:
                asked.append(number)
                return [Reset(after_bytes=number, direction="down")]

            async with ChaosProxy(server.address, script) as proxy:
                for number in (1, 2, 3):
                    client = await Peer.connect(proxy.address)
                    client.transport.write(bytes(10))
                    await client.reset()
                    assert client.received == number
            assert asked == [1, 2, 3]

    run(test())


def test_breaks_are_counted_by_what_made_them(run: Run) -> None:
    scripts: list[list[Fault]] = [
        [],
        [Reset(after_bytes=1, direction="up")],
        [HalfClose(after_bytes=1, direction="down"), Reset(after_bytes=3, direction="up")],
        [Drop(after_bytes=1, direction="up")],
        [Stall(seconds=FOREVER, after_bytes=1, direction="down")],
        [Stall(seconds=0, after_bytes=1, direction="down")],
    ]

    async def test() -> None:
        async with EchoServer() as server, ChaosProxy(server.address, lambda number: scripts[number - 1]) as proxy:
            clients = []
            for number in range(1, len(scripts) + 1):
                clients.append(await Peer.connect(proxy.address))
                await server.peer(number)
            for client in clients:
                client.transport.write(b"xx")
            for client in (clients[0], clients[5]):
                await client.first(2)
                client.transport.close()
            await clients[1].reset()
            await clients[2].until(lambda: clients[2].ended)
            clients[2].transport.write(b"x")
            await server.peers[2].gone()
            await clients[4].first(1)
            clients[4].transport.abort()  # it gives up
            while proxy.breaks < 4:  # noqa: ASYNC110 - the proxy tells nobody
                await asyncio.sleep(0.001)
            assert proxy.breaks_by == {"reset": 1, "half-close": 1, "drop": 1, "stall": 1}

    run(test())


def test_drop_swallows_everything_while_sockets_stay_open(run: Run) -> None:
    async def test() -> None:
        async with path(Drop(after_bytes=4, direction="down")) as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes(b"ping")
            peer = await server.peer(1)
            client.transport.write(bytes(3_000_000))
            peer.transport.write(bytes(3_000_000))
            await client.flushed()
            await peer.flushed()
            other = await Peer.connect(proxy.address)
            await other.echoes(b"abc")
            client.transport.close()
            await client.gone()
            await other.echoes(b"d")
            assert (peer.received, peer.ended, peer.lost, client.received) == (4, False, False, 4)
            assert proxy.breaks == 2  # the other's fourth byte was its last

    run(test())


def test_refuse_refuses_new_connections_for_a_while_and_keeps_old_ones(run: Run) -> None:
    async def test() -> None:
        async with path(Refuse(LONG, connection=1, after_bytes=4, direction="down")) as (_, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes(b"ping")
            with pytest.raises(ConnectionRefusedError):
                await Peer.connect(proxy.address)
            await client.echoes(b"pong")
            await (await until_accepted(proxy)).echoes()
            assert proxy.connections == 2

    run(test())


async def until_accepted(proxy: ChaosProxy) -> Peer:
    while True:
        try:
            return await Peer.connect(proxy.address)
        except ConnectionRefusedError:
            await asyncio.sleep(0)


def test_a_later_refusal_replaces_an_earlier_one(run: Run) -> None:
    async def test() -> None:
        async with path() as (_, proxy):
            proxy.refuse(FOREVER)
            proxy.refuse(0)
            await (await until_accepted(proxy)).echoes()
            proxy.refuse(FOREVER)
            with pytest.raises(ConnectionRefusedError):
                await Peer.connect(proxy.address)

    run(test())


def test_while_a_proxy_refuses_nobody_else_gets_its_port(run: Run) -> None:
    async def test() -> None:
        async with path() as (_, proxy):
            proxy.refuse(FOREVER)
            await asyncio.sleep(0)  # uvloop closes in the next turn
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(proxy.address)
            proxy.refuse(0)
            await (await until_accepted(proxy)).echoes()

    run(test())


def test_cut_all_resets_every_connection_and_accepts_new_ones(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            clients = [await Peer.connect(proxy.address) for _ in range(10)]
            for client in clients:
                await client.echoes()
            proxy.cut_all()
            for peer in (*clients, *server.peers):
                await peer.reset()
            assert proxy.breaks == 10
            await (await Peer.connect(proxy.address)).echoes()

    run(test())


def test_a_connection_is_reset_in_whatever_turn_of_its_opening(run: Run) -> None:
    async def test() -> None:
        async with path() as (_, proxy):
            for turns in range(12):
                client = await Peer.connect(proxy.address)
                for _ in range(turns):
                    await asyncio.sleep(0)
                while not client.lost:
                    proxy.cut_all()
                    await asyncio.sleep(0)
            await (await Peer.connect(proxy.address)).echoes()

    run(test())


def test_pause_holds_old_and_new_connections_and_resume_delivers_all(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            old = await Peer.connect(proxy.address)
            await old.echoes()
            proxy.pause()
            new = await Peer.connect(proxy.address)
            data = os.urandom(5_000_000)
            old.transport.write(data)
            new.transport.write(data)
            new.transport.write_eof()
            await server.peer(2)
            assert (proxy.bytes_up, proxy.bytes_down) == (4, 4)
            proxy.resume()
            assert await old.first(4 + len(data)) == b"ping" + data
            assert await new.first(len(data)) == data
            await new.until(lambda: new.ended)

    run(test())


def test_a_paused_path_holds_its_sender_back(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes()
            proxy.pause()
            client.transport.write(bytes(50_000_000))
            await (await Peer.connect(server.address)).echoes(bytes(20_000_000))  # time enough to read all of it
            assert client.transport.get_write_buffer_size() > 25_000_000

    run(test())


def test_a_slow_receiver_holds_its_sender_back(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            client = await Peer.connect(proxy.address)
            await client.echoes()
            (await server.peer(1)).transport.pause_reading()
            client.transport.write(bytes(50_000_000))
            await (await Peer.connect(server.address)).echoes(bytes(20_000_000))  # time enough to read all of it
            assert client.transport.get_write_buffer_size() > 25_000_000
            (await server.peer(1)).transport.resume_reading()
            await client.first(50_000_004)

    run(test())


def test_drop_and_restore_kill_old_connections_and_let_new_ones_through(run: Run) -> None:
    async def test() -> None:
        async with path() as (server, proxy):
            old = await Peer.connect(proxy.address)
            await old.echoes()
            proxy.drop()
            during = await Peer.connect(proxy.address)
            old.transport.write(b"anybody?")
            during.transport.write(bytes(20_000_000))
            await during.flushed()  # more than the kernel holds, so the proxy has accepted and read
            proxy.restore()
            after = await Peer.connect(proxy.address)
            await after.echoes()
            assert (old.received, old.lost, during.received, during.lost) == (4, False, 0, False)
            assert (len(server.peers), proxy.breaks) == (2, 2)

    run(test())


def test_a_connection_over_the_limit_is_reset_and_leaves_room_when_others_go(run: Run) -> None:
    async def test() -> None:
        async with path(max_connections=2) as (_, proxy):
            first, second = [await Peer.connect(proxy.address) for _ in range(2)]
            await first.echoes()
            await second.echoes()
            await (await Peer.connect(proxy.address)).reset()
            assert proxy.connections == 2
            proxy.cut_all()
            await first.reset()
            await (await Peer.connect(proxy.address)).echoes()

    run(test())


async def cuts(seed: int, connections: int) -> list[int]:
    """How many bytes each client receives before the script resets it."""
    async with path(Reset(mean_bytes=20_000), Split(300, mean_bytes=9_000), seed=seed) as (server, proxy):
        clients = []
        for number in range(1, connections + 1):
            clients.append(await Peer.connect(proxy.address))
            (await server.peer(number)).transport.write(bytes(1_000_000))
        for client in clients:
            await client.reset()
        return [client.received for client in clients]


def test_the_same_seed_breaks_each_connection_at_the_same_byte(run: Run) -> None:
    async def test() -> None:
        first = await cuts(seed=7, connections=20)
        assert await cuts(seed=7, connections=20) == first
        assert await cuts(seed=7, connections=5) == first[:5]
        assert len(set(first)) > 15
        assert await cuts(seed=8, connections=20) != first

    run(test())


def test_nothing_is_left_behind(run: Run) -> None:
    async def scene() -> None:
        faults = (
            Delay(FOREVER, connection=1),
            Stall(FOREVER, connection=2),
            Drop(connection=3),
            HalfClose(connection=4, direction="up"),
            Reset(after_seconds=FOREVER),
        )
        async with path(*faults) as (server, proxy):
            clients = [await Peer.connect(proxy.address) for _ in range(6)]
            for client in clients:
                client.transport.write(bytes(1_000_000))
            await clients[4].first(1_000_000)
            proxy.refuse(FOREVER)
        await Peer.close_all()

    async def test() -> None:
        await scene()
        before = len(os.listdir("/dev/fd"))
        await scene()
        assert len(os.listdir("/dev/fd")) == before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Reset(after_bytes=1, mean_seconds=2), "at most one trigger"),
        (lambda: Reset(after_bytes=0), "Reset.after_bytes is 0; it must be 1 or more"),
        (lambda: Delay(-1), "Delay.seconds is -1; it must be 0 or more"),
        (lambda: Split(0), "Split.size is 0; it must be 1 or more"),
        (lambda: Drop(connection=0), "Drop.connection is 0; it must be 1 or more"),
        (lambda: Drop(direction=cast(Any, "left")), "'left'; it must be up, down or both"),
    ],
)
def test_a_fault_that_cannot_work_says_why(make: Callable[[], Fault], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_fake_clock_moves_only_when_told_and_never_back() -> None:
    clock = FakeClock(100)
    assert (clock(), clock()) == (100, 100)
    clock.advance(2.5)
    assert clock() == 102.5
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
