"""Processes on machines of their own, simulated in one event loop. Time jumps to the next call that is due.

Each process has a context of its own (contextvars), and a callback runs in the context that scheduled it. So the loop
knows the process of each callback, and can hold back those of a frozen process. The network between processes can be
slow or cut. Sockets are simulated; only the ports of servers are real, so that no two simulations have the same one.

    with Simulation() as loop:
        gateway = Process("gateway")
        loop.run_until_complete(gateway.run(server.start()))
        loop.freeze(gateway, 8.0)
        loop.run_until_complete(asyncio.sleep(20.0))
"""

import asyncio
import contextvars
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Self, TypeVar, TypeVarTuple, cast

import pytest

from gatelink import _native

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

LATENCY = 0.001  # s from one machine to another
ROUNDING = 1e-6  # s by which a call may come too early
STARTED_AT = 1_700_000_000.0  # of every machine's clock, in unix seconds
_NOBODY = contextvars.Context()
"""The context of callbacks of no process: those of the network, the engine and time."""


class Process:
    """A process, with a machine of its own.

    clock_off: seconds that the machine's clock is ahead. frozen_until: 0.0 while it runs. held: calls that wait.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock_off = 0.0
        self.frozen_until = 0.0
        self.context = _NOBODY.copy()
        self.context.run(_HERE.set, self)
        self.held: list[_Call] = []

    def __repr__(self) -> str:
        return self.name

    def run(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Run `work` as a task of this process."""
        return asyncio.get_running_loop().create_task(work, context=self.context)


_HERE: contextvars.ContextVar[Process | None] = contextvars.ContextVar("_HERE", default=None)


class _Kind(IntEnum):
    """What a call is for. A process that wakes makes its calls in this order: a loop reads sockets before timers."""

    READY = 0
    READ = 1
    TIMER = 2


class _Call:
    """A callback of a process, which waits while the process is frozen."""

    __slots__ = ("args", "callback", "handle", "kind", "process")

    def __init__(self, process: Process, kind: _Kind, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.process = process
        self.kind = kind
        self.callback = callback
        self.args = args
        self.handle: asyncio.Handle

    def __call__(self) -> None:
        if self.process.frozen_until:
            self.process.held.append(self)
        elif not self.handle.cancelled():
            self.callback(*self.args)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop that never waits: when nothing is ready, its time jumps to that of the next timer."""

    def __init__(self) -> None:
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        self._now = 1_000.0
        select = selector.select

        def jump(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        selector.select = jump  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now


class Simulation(JumpingLoop):
    """The loop and network of all processes. While it is entered, `time.time` is the running process's clock."""

    def __init__(self) -> None:
        super().__init__()
        self._ports: dict[int, tuple[Callable[[], asyncio.BaseProtocol], contextvars.Context]] = {}
        self._cut: set[frozenset[Process | None]] = set()
        self._slow: dict[frozenset[Process | None], float] = {}
        self._ends: list[_End] = []
        self._mended: asyncio.Event | None = None
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        if _native.core is not None:  # its sockets are the system's, and these are simulated
            self._patches.setattr(_native.core, "Reactor", lambda loop: None)
        self._patches.setattr(time, "time", self._wall_clock)
        self._patches.setattr(time, "clock_gettime", lambda clock: self.time())
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.undo()
        self.close()

    def _wall_clock(self) -> float:
        here = _HERE.get()
        return STARTED_AT + self.time() + (here.clock_off if here is not None else 0.0)

    # -- processes --

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        return self.call_kind(_Kind.READY, callback, args, context)

    def call_kind(
        self, kind: _Kind, callback: Any, args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.Handle:
        """Call `callback` soon, or when its process wakes."""
        process = context.get(_HERE) if context is not None else _HERE.get()
        if process is None:
            return super().call_soon(callback, *args, context=context)
        call = _Call(process, kind, callback, args)
        call.handle = super().call_soon(call, context=context)
        return call.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        process = context.get(_HERE) if context is not None else _HERE.get()
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        call = _Call(process, _Kind.TIMER, callback, args)
        call.handle = handle = super().call_at(when, call, context=context)
        return handle

    def freeze(self, process: Process, seconds: float) -> None:
        """Let a process stand still for `seconds`. Its incoming messages wait, and its timers are late."""
        process.frozen_until = max(process.frozen_until, self.time() + seconds)
        self.call_at(process.frozen_until, self._wake, process, context=_NOBODY)

    def _wake(self, process: Process) -> None:
        if self.time() >= process.frozen_until - ROUNDING:
            process.frozen_until = 0.0
            held, process.held = process.held, []
            for call in sorted(held, key=lambda call: call.kind):
                super().call_soon(call, context=call.handle._context)  # type: ignore[attr-defined]

    # -- the network --

    def cut(self, one: Process, other: Process) -> None:
        """Lose every packet between two processes. TCP sends them again after `mend`."""
        self._cut.add(frozenset((one, other)))

    def slow(self, one: Process, other: Process, seconds: float) -> None:
        """Let packets between two processes take `seconds`, each way."""
        self._slow[frozenset((one, other))] = seconds

    def mend(self) -> None:
        """End every `cut` and `slow`."""
        self._cut.clear()
        self._slow.clear()
        for end in self._ends:
            end.carry()
        if self._mended is not None:
            self._mended.set()

    def is_cut(self, one: Process | None, other: Process | None) -> bool:
        return frozenset((one, other)) in self._cut

    def latency(self, one: Process | None, other: Process | None) -> float:
        return self._slow.get(frozenset((one, other)), LATENCY)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Take a real port, and listen in the simulation. Nothing in the simulation can connect to a given `sock`."""
        listening = options.get("sock")
        if listening is None:
            listening = socket.socket()
            listening.bind((host, port))
            self._ports[listening.getsockname()[1]] = protocol_factory, contextvars.copy_context()
        return _Listening(self, listening)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Connect to a simulated server. Waits while packets to it are lost. Raises ConnectionRefusedError."""
        await asyncio.sleep(LATENCY)
        here = _HERE.get()
        while port in self._ports and self.is_cut(here, self._ports[port][1].get(_HERE)):
            self._mended = self._mended or asyncio.Event()
            self._mended.clear()
            await self._mended.wait()
        if port not in self._ports:
            raise ConnectionRefusedError(f"nobody listens at port {port}")
        make, there = self._ports[port]
        one, other = _End(self, contextvars.copy_context()), _End(self, there)
        one.peer, other.peer = other, one
        self._ends = [*(end for end in self._ends if not end.is_closing() or end.sent), one, other]
        protocol = protocol_factory()
        one.set_protocol(protocol)
        protocol.connection_made(one)
        self.call_kind(_Kind.READ, other.accepted, (make,), there)
        return one, protocol

    def forget(self, port: int) -> None:
        self._ports.pop(port, None)


class _Listening:
    """What `create_server` returns."""

    def __init__(self, loop: Simulation, listening: socket.socket) -> None:
        self.sockets = (listening,)
        self._loop = loop

    def close(self) -> None:
        (listening,) = self.sockets
        self._loop.forget(listening.getsockname()[1])
        listening.close()


_EOF = b""  # a FIN, in the place of data
_RESET = None  # a RST


class _End(asyncio.Transport):
    """One end of a TCP connection between two processes. context: of the process that has this end."""

    peer: "_End"

    def __init__(self, loop: Simulation, context: contextvars.Context) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.context = context
        self.process = context.get(_HERE)
        self.sent: deque[tuple[float, bytes | None]] = deque()  # on the way to the peer: when it arrives, and what
        self._loop = loop
        self._protocol: asyncio.BaseProtocol | None = None
        self._received: deque[bytes | None] = deque()  # in the kernel, not yet read by the process
        self._is_paused = False
        self._is_reading = False  # a call of `read` is due
        self._has_ended = False  # this end has sent its last: FIN or RST
        self._is_closing = False

    # -- as a transport --

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: Any) -> None:
        if data and not self._has_ended:
            self._send(bytes(data))

    def write_eof(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._send(_EOF)

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0  # the kernel takes everything

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._read_soon()

    def close(self) -> None:
        self.write_eof()
        self._lose(None)

    def abort(self) -> None:
        if not self._is_closing:
            self._has_ended = True
            self._send(_RESET)
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = self._has_ended = True
            self._received.clear()
            self._loop.call_kind(_Kind.READY, self.get_protocol().connection_lost, (error,), self.context)

    # -- packets --

    def _send(self, data: bytes | None) -> None:
        due = self._loop.time() + self._loop.latency(self.process, self.peer.process)
        if self.sent:
            due = max(due, self.sent[-1][0])
        self.sent.append((due, data))
        self._loop.call_at(due, self.carry, context=_NOBODY)

    def carry(self) -> None:
        """Move what is due to the peer's kernel, unless the network is cut."""
        while self.sent and not self._loop.is_cut(self.process, self.peer.process):
            due, data = self.sent[0]
            if due > self._loop.time() + ROUNDING:
                return
            self.sent.popleft()
            self.peer.arrived(data)

    def arrived(self, data: bytes | None) -> None:
        """Take a packet into the kernel, which lives on while the process is frozen."""
        if not self._is_closing:
            self._received.append(data)
            self._read_soon()
        elif data:
            self._send(_RESET)

    def _read_soon(self) -> None:
        if self._received and not self._is_reading and not self._is_paused and self._protocol is not None:
            self._is_reading = True
            self._loop.call_kind(_Kind.READ, self.read, (), self.context)

    def accepted(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept the connection, in the server's process."""
        self._protocol = make()
        self._protocol.connection_made(self)
        self._read_soon()

    def read(self) -> None:
        """Give the protocol one read: the bytes that are there, or the end of the stream."""
        self._is_reading = False
        if not self._received or self._is_paused or self._is_closing:
            return
        if self._received[0] is _RESET:  # a RST that came first; one behind data is met after the data, as on Linux
            self._lose(ConnectionResetError())
            return
        protocol = self._protocol
        if self._received[0] == _EOF:
            self._received.popleft()
            if not cast(asyncio.Protocol, protocol).eof_received():
                self.close()
            return
        if isinstance(protocol, asyncio.BufferedProtocol):
            data = self._take()
            buffer = memoryview(cast(Any, protocol.get_buffer(-1)))
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            if data[size:]:
                self._received.appendleft(data[size:])
            protocol.buffer_updated(size)
        else:
            cast(asyncio.Protocol, protocol).data_received(self._take())
        self._read_soon()

    def _take(self) -> bytes:
        data = bytearray()
        while self._received and self._received[0]:
            data += cast(bytes, self._received.popleft())
        return bytes(data)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Let callbacks that are scheduled inside belong to no process."""
    token = _HERE.set(None)
    try:
        yield
    finally:
        _HERE.reset(token)
