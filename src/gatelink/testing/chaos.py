"""A TCP proxy that does to connections what networks do, on command or by a script, the same way every time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Self

from gatelink.testing.faults import Delay, Drop, Fault, HalfClose, Refuse, Reset, Split, Stall
from gatelink.testing.relay import Relay


class ChaosProxy:
    """Stands between clients and the server at `target`, on 127.0.0.1, and breaks what passes through.

        script = [Split(3, direction="down"), Reset(connection=1, after_bytes=5_000)]
        async with ChaosProxy(("127.0.0.1", port), script) as proxy:
            ...  # connect to proxy.address

    `script` is what happens by itself; it may be a function that gives each connection's own by its number, counted
    from 1 as they are accepted. Its random draws come from `seed`, the connection's number and the fault's place in the
    script alone, so a connection meets the same faults at the same bytes whatever others do. A connection over
    `max_connections` is reset at once. Leaving the block resets what is left; no task or descriptor stays behind.
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
        self._live: set[Relay] = set()
        self._none_live = asyncio.Event()
        self._past_breaks: Counter[str] = Counter()  # of those no longer live
        self._past_up = self._past_down = 0
        self._paused = False
        self._dropping = False
        self._closing = False
        self._server: asyncio.Server
        self._refusing: asyncio.TimerHandle | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        self.address = self._server.sockets[0].getsockname()
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
            for relay in list(self._live):
                relay.abort()
            await self._none_live.wait()
        await self._server.wait_closed()

    @property
    def breaks(self) -> int:
        """Connections that were broken so far; each counts once."""
        return self.breaks_by.total()

    @property
    def breaks_by(self) -> Counter[str]:
        """The same by what broke them first: `reset`, `half-close`, `drop`, and `stall` when a side gave up in one."""
        return self._past_breaks + Counter(relay.broken_by for relay in self._live if relay.broken_by)

    @property
    def bytes_up(self) -> int:
        """Bytes delivered to the target so far."""
        return self._past_up + sum(relay.up.position for relay in self._live)

    @property
    def bytes_down(self) -> int:
        """Bytes delivered to clients so far."""
        return self._past_down + sum(relay.down.position for relay in self._live)

    def cut_all(self) -> None:
        """Reset every connection on both sides, now. New ones are accepted."""
        for relay in list(self._live):
            relay.reset()

    def pause(self) -> None:
        """Deliver nothing, on present and new connections, until `resume`. Nothing is lost; senders are held back."""
        self._paused = True
        for relay in self._live:
            relay.pause()

    def resume(self) -> None:
        """Deliver what was held, and go on."""
        self._paused = False
        for relay in list(self._live):
            relay.resume()

    def drop(self) -> None:
        """Let the path die, as `Drop` does, for present connections and for those that come before `restore`.

        These are accepted and hear nothing; the target does not learn of them.
        """
        self._dropping = True
        for relay in list(self._live):
            relay.drop()

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
            lambda: Relay(self._accepted, self._gone).client, host, port, backlog=1_024, reuse_address=True
        )
        if self._refusing is not None:  # again, meanwhile
            self._server.close()

    def _accepted(self, relay: Relay) -> None:
        full = len(self._live) >= self._max_connections
        self._live.add(relay)
        if full or self._closing:
            relay.abort()
            return
        self.connections += 1
        if self._paused:
            relay.pause()
        if self._dropping:
            relay.drop()
        else:
            relay.open(self._target, partial(self._begin_script, relay, self.connections))

    def _gone(self, relay: Relay) -> None:
        if relay not in self._live:
            return
        self._live.remove(relay)
        if relay.broken_by:
            self._past_breaks[relay.broken_by] += 1
        self._past_up += relay.up.position
        self._past_down += relay.down.position
        if not self._live:
            self._none_live.set()

    # -- the script --

    def _begin_script(self, relay: Relay, number: int) -> None:
        """Enter in the schedules of `relay`, connection `number`, what the script has for it."""
        for place, fault in enumerate(self._script(number)):
            if fault.connection not in (None, number):
                continue
            key = f"{self._seed}/{number}/{place}"
            directions = ("up", "down") if fault.direction == "both" else (fault.direction,)
            if fault.by_bytes:
                for direction in directions:
                    strike = partial(self._strike, fault, relay, (direction,), key)
                    stops = relay.up.stops if direction == "up" else relay.down.stops
                    stops.add(fault.positions(Random(f"{key}/{direction}")), strike)
            else:
                relay.times.add(fault.positions(Random(key)), partial(self._strike, fault, relay, directions, key))

    def _strike(self, fault: Fault, relay: Relay, directions: tuple[str, ...], key: str) -> None:
        match fault:
            case Drop():
                relay.drop()
            case Refuse():
                self.refuse(fault.seconds)
            case Reset() if not fault.by_bytes:
                relay.reset()
        for direction in directions:
            pipe = relay.up if direction == "up" else relay.down
            match fault:
                case Delay():
                    pipe.delay(partial(fault.draw, Random(f"{key}/{direction}/jitter")))
                case Split():
                    pipe.split(fault.size)
                case Stall():
                    pipe.stall(fault.seconds)
                case HalfClose():
                    relay.break_by("half-close")
                    pipe.end()
                case Reset() if fault.by_bytes:
                    relay.break_by("reset")
                    pipe.reset_when_written()


def _for_all(script: Sequence[Fault]) -> Callable[[int], Sequence[Fault]]:
    return lambda number: script
