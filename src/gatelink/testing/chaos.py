"""A TCP proxy that breaks connections as networks do, on command or by a script, the same way every time."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Self

from gatelink.testing.faults import Delay, Direction, Drop, Fault, HalfClose, Refuse, Reset, Split, Stall
from gatelink.testing.proxied import ProxiedConnection


class ChaosProxy:
    """Stands between clients and the server at `target`, on 127.0.0.1, and applies faults to their connections.

        script = [Split(3, direction="down"), Reset(connection=1, after_bytes=5_000)]
        async with ChaosProxy(("127.0.0.1", port), script) as proxy:
            ...  # connect to proxy.address

    script: the faults that happen by themselves, or a function from a connection's number to its faults. Connections
        are numbered from 1 as they are accepted.
    seed: of the random draws. A draw depends on `seed`, the connection's number and the fault's place in the script
        alone. So a connection meets the same faults at the same bytes, whatever other connections do.
    max_connections: a further connection is reset at once.

    The end of the block resets the remaining connections, and leaves no task or descriptor.
    """

    def __init__(
        self,
        target: tuple[str, int],
        script: Sequence[Fault] | Callable[[int], Sequence[Fault]] = (),
        *,
        seed: int = 0,
        max_connections: int = 4_096,
    ) -> None:
        self.address = ("127.0.0.1", 0)  # where clients connect; the port is known inside the block
        self.connections = 0  # accepted so far
        self._target = target
        self._script = script if callable(script) else _for_all(tuple(script))
        self._seed = seed
        self._max_connections = max_connections
        self._live: set[ProxiedConnection] = set()
        self._none_live = asyncio.Event()
        self._past_breaks: Counter[str] = Counter()  # of closed connections
        self._past_up = self._past_down = 0
        self._paused = False
        self._dropping = False
        self._closing = False
        self._server: asyncio.Server
        self._held_port: socket.socket
        self._refusing: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Bound, and never listening: while `refuse` lets nobody listen, the kernel gives the port to no other socket.
        self._held_port = socket.socket()
        self._held_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held_port.bind(self.address)
        self.address = self._held_port.getsockname()
        try:
            await self._listen()
        except BaseException:
            self._held_port.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        if self._refusing is not None:
            self._refusing.cancel()
        if self._listening is not None:
            await self._listening
        self._server.close()
        if self._live:
            self._none_live.clear()
            for connection in list(self._live):
                connection.abort()
            await self._none_live.wait()
        await self._server.wait_closed()
        self._held_port.close()

    @property
    def breaks(self) -> int:
        """Connections broken so far; each counts once."""
        return self.breaks_by.total()

    @property
    def breaks_by(self) -> Counter[str]:
        """The same by their first fault: `reset`, `half-close`, `drop`, or `stall` when a side closed during one."""
        return self._past_breaks + Counter(connection.broken_by for connection in self._live if connection.broken_by)

    @property
    def bytes_up(self) -> int:
        """Bytes delivered to the target so far."""
        return self._past_up + sum(connection.up.position for connection in self._live)

    @property
    def bytes_down(self) -> int:
        """Bytes delivered to clients so far."""
        return self._past_down + sum(connection.down.position for connection in self._live)

    def cut_all(self) -> None:
        """Reset every connection on both sides, now. New ones are accepted."""
        for connection in list(self._live):
            connection.reset()

    def half_close(self, direction: Direction) -> None:
        """End one direction of every connection, or both, now, as `HalfClose` does."""
        for connection in list(self._live):
            _half_close(connection, _directions(direction))

    def pause(self) -> None:
        """Deliver nothing, on present and new connections, until `resume`. No byte is lost; senders must wait."""
        self._paused = True
        for connection in self._live:
            connection.pause()

    def resume(self) -> None:
        """Deliver the held bytes, and go on."""
        self._paused = False
        for connection in list(self._live):
            connection.resume()

    def drop(self) -> None:
        """Let the path die, as `Drop` does, for present connections and for new ones until `restore`.

        New ones are accepted and receive nothing. The target does not learn of them.
        """
        self._dropping = True
        for connection in list(self._live):
            connection.drop()

    def restore(self) -> None:
        """Let new connections through again. Dropped ones stay dead: they have lost bytes."""
        self._dropping = False

    def refuse(self, seconds: float) -> None:
        """Refuse new connections for `seconds` from now, as `Refuse` does."""
        if self._closing:
            return
        if self._refusing is not None:
            self._refusing.cancel()
        self._server.close()
        self._refusing = asyncio.get_running_loop().call_later(seconds, self._listen_again)

    def _listen_again(self) -> None:
        self._refusing = None
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        host, port = self.address
        self._server = await loop.create_server(
            lambda: ProxiedConnection(self._accepted, self._closed).client,
            host,
            port,
            backlog=1_024,
            reuse_address=True,
        )
        if self._refusing is not None:  # `refuse` was called again meanwhile
            self._server.close()

    def _accepted(self, connection: ProxiedConnection) -> None:
        full = len(self._live) >= self._max_connections
        self._live.add(connection)
        if full or self._closing:
            connection.abort()
            return
        self.connections += 1
        if self._paused:
            connection.pause()
        if self._dropping:
            connection.drop()
        else:
            connection.open(self._target, partial(self._begin_script, connection, self.connections))

    def _closed(self, connection: ProxiedConnection) -> None:
        if connection not in self._live:
            return
        self._live.remove(connection)
        if connection.broken_by:
            self._past_breaks[connection.broken_by] += 1
        self._past_up += connection.up.position
        self._past_down += connection.down.position
        if not self._live:
            self._none_live.set()

    # -- the script --

    def _begin_script(self, connection: ProxiedConnection, number: int) -> None:
        """Schedule the script's faults for `connection`, which is number `number`."""
        for place, fault in enumerate(self._script(number)):
            if fault.connection not in (None, number):
                continue
            key = f"{self._seed}/{number}/{place}"
            directions = _directions(fault.direction)
            if fault.by_bytes:
                for direction in directions:
                    strike = partial(self._strike, fault, connection, (direction,), key)
                    stops = connection.up.stops if direction == "up" else connection.down.stops
                    stops.add(fault.positions(Random(f"{key}/{direction}")), strike)
            else:
                connection.times.add(
                    fault.positions(Random(key)), partial(self._strike, fault, connection, directions, key)
                )

    def _strike(self, fault: Fault, connection: ProxiedConnection, directions: tuple[str, ...], key: str) -> None:
        match fault:
            case Drop():
                connection.drop()
            case Refuse():
                self.refuse(fault.seconds)
            case Reset() if not fault.by_bytes:
                connection.reset()
            case HalfClose():
                _half_close(connection, directions)
        for direction in directions:
            pipe = connection.up if direction == "up" else connection.down
            match fault:
                case Delay():
                    pipe.delay(partial(fault.draw, Random(f"{key}/{direction}/jitter")))
                case Split():
                    pipe.split(fault.size)
                case Stall():
                    pipe.stall(fault.seconds)
                case Reset() if fault.by_bytes:
                    connection.break_by("reset")
                    pipe.reset_when_written()


def _directions(direction: Direction) -> tuple[str, ...]:
    return ("up", "down") if direction == "both" else (direction,)


def _half_close(connection: ProxiedConnection, directions: tuple[str, ...]) -> None:
    connection.break_by("half-close")
    for direction in directions:
        (connection.up if direction == "up" else connection.down).end()


def _for_all(script: Sequence[Fault]) -> Callable[[int], Sequence[Fault]]:
    return lambda number: script
