"""A world without a network or a clock: real servers and clients on a loop whose time passes only when nobody has
anything to do, joined by streams that a test holds and cuts as it likes. The same steps give the same run."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

HIGH_WATER = 65_536
ODD_START = 17.25  # s; no real clock is likely to be near it
LONGEST = 20_000.0  # s that a run may take


class _Selector(selectors.SelectSelector):
    """Never waits: where a loop would sleep, its time jumps instead."""

    loop: "WarpLoop"

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "the loop waits for what will never happen"
            self.loop.now += max(0.0, timeout)
            assert self.loop.now < LONGEST, "the loop waits for what does not happen"
        return ready


class WarpLoop(asyncio.SelectorEventLoop):
    """An event loop of virtual time. `create_connection` asks `accept` for the protocol at the other end.

    accept: None, or what raises OSError, while nobody listens. flowing: what is written arrives in the next turn;
    else it stays on its way.
    """

    def __init__(self) -> None:
        self.now = ODD_START
        self.accept: Callable[[], asyncio.BaseProtocol] | None = None
        self.flowing = True
        self.streams: list[Stream] = []
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    async def create_connection(self, factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        if self.accept is None:
            raise ConnectionRefusedError(111, "nobody listens")
        near, far = Stream(self, factory()), Stream(self, self.accept())
        near.peer, far.peer = far, near
        self.streams += near, far
        for stream in (far, near):
            stream.protocol.connection_made(stream)
        return near, near.protocol

    def set_flowing(self, flowing: bool) -> None:
        self.flowing = flowing
        for stream in self.streams:
            stream.go_on()

    def cut_all(self, bytes_first: int) -> None:
        """Every connection breaks: of what is on its way, each direction brings as many bytes, and the rest never."""
        streams, self.streams = self.streams, []
        for stream in streams:
            stream.flow(bytes_first)
        for stream in streams:
            stream.lose(ConnectionResetError())


class Stream(asyncio.Transport):
    """One end of a connection; `out` is on its way to the other end."""

    peer: "Stream"

    def __init__(self, loop: WarpLoop, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self.protocol = protocol
        self.out = bytearray()
        self.is_lost = False
        self._closing = False
        self._ended = False  # EOF stands behind `out`
        self._eof_told = False
        self._reading = True
        self._blocked = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return len(self.out)

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self.peer.go_on()

    def write(self, data: Any) -> None:
        if self._ended or self.is_lost:
            return
        self.out += data
        if len(self.out) > HIGH_WATER and not self._blocked:
            self._blocked = True
            self.protocol.pause_writing()
        self.go_on()

    def write_eof(self) -> None:
        self._ended = True
        self.go_on()

    def close(self) -> None:
        self._closing = self._ended = True
        self.go_on()
        if not self.out:
            self._loop.call_soon(self.lose, None)

    def abort(self) -> None:
        self._closing = self._ended = True
        self.out.clear()
        self.go_on()
        self._loop.call_soon(self.lose, None)

    # -- the way to the other end --

    def go_on(self) -> None:
        if self._loop.flowing:
            self._loop.call_soon(self._flow_if_flowing)

    def _flow_if_flowing(self) -> None:
        if self._loop.flowing:
            self.flow(len(self.out))
            self._end()

    def flow(self, count: int) -> None:
        """Delivers up to `count` bytes of what is on its way."""
        peer = self.peer
        if peer.is_lost or peer._closing:
            self.out.clear()
        if not peer._reading:
            return
        data = bytes(self.out[:count])
        del self.out[:count]
        if data:
            peer.protocol.data_received(data)
        if self._blocked and len(self.out) <= HIGH_WATER // 4 and not self.is_lost:
            self._blocked = False
            self.protocol.resume_writing()

    def _end(self) -> None:
        """What comes behind the last byte."""
        peer = self.peer
        if not self._ended or self.out or self._eof_told:
            return
        self._eof_told = True
        if self._closing:
            self.lose(None)
        if not (peer.is_lost or peer._closing or peer.protocol.eof_received()):
            peer.close()

    def lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = self._closing = True
            self.protocol.connection_lost(error)
