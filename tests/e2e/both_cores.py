"""A process that runs traces on the core that GATELINK_NATIVE says; `test_both_cores.py` compares both.

It reads traces from standard input, one a line, and answers each with a line: what clients, handlers and counters had.
A trace is the kind of client, what the server reads, and the steps, in the words of `Run`.
"""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from gatelink import CloseCode, Full, Handlers, Limits, Listen, ServerKey, Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire.base import HEARTBEAT, VERIFY_SUCCEEDED
from gatelink.wire.control import Ack, Close, Features, Hello, Resumed, Ticket, control_frame, decode_control
from gatelink.wire.frames import ALL_FLAGS, CONTROL, FrameDecoder
from gatelink.wire.handshake import Initiator
from gatelink.wire.resume import NO_HANDSHAKE, resume
from gatelink.wire.secure import SecureStream
from gatelink.wire.websocket import WebSocketStream
from tests.e2e.support import CATALOG, TCP, Blob, Echo, EchoServer, Note, make_certificate, until, verify_request
from tests.e2e.websocket import BINARY, PING, PONG, request, ws_frame

LIMITS = Limits(
    max_frame=2_000,
    turn_frames=8,
    turn_bytes=1_500,
    write_high_water=4_000,
    max_outbox_frames=12,
    max_outbox_bytes=6_000,
    window_frames=64,
    window_bytes=65_536,
    base_linger=0.001,
)
KEY = ServerKey.generate()
KINDS = ("base", "extended", "resumable", "sealed")
WAYS = ("socket", "transport", "proxied", "tls", "ws", "wss")
"""What the server reads: a socket of its own, or a transport with nothing or something between."""
QUIET = 6
"""Turns of the loop in which nothing happens; then all that a step has caused is done."""


NOTE = CATALOG.find(Note).id


@cache
def certificate() -> tuple[str, str, ssl.SSLContext]:
    """A certificate of the servers here, for the life of the process."""
    folder = TemporaryDirectory()
    made = make_certificate(Path(folder.name))
    FOLDERS.append(folder)
    return made


FOLDERS: list[TemporaryDirectory[str]] = []


def listen_of(way: str) -> str | Listen:
    """What listens for the clients of a way."""
    match way:
        case "socket":
            return TCP
        case "transport":
            return Listen(endpoint=TCP, accept=lambda connection: True)
        case "proxied":
            return Listen(endpoint=TCP, proxies=("127.0.0.1",))
        case "ws":
            return Listen(endpoint="ws://127.0.0.1:0")
        case _:
            pem, key, _ = certificate()
            return Listen(endpoint=f"{way}://127.0.0.1:0", certificate=pem, key=key)


def web_frames(data: bytes, shape: Iterator[int]) -> Iterator[bytes]:
    """WebSocket frames that carry `data`, in the order of `shape`: each number is a size and what has it."""
    for number in shape:
        size, what = divmod(number, 8)
        part, data = data[:size], data[size:]
        if what == 1:  # in two fragments
            half = len(part) // 2
            yield ws_frame(BINARY, part[:half], fin=False) + ws_frame(0, part[half:])
        elif what == 2:  # with a ping between them
            half = len(part) // 2
            yield ws_frame(BINARY, part[:half], fin=False) + ws_frame(PING, b"!") + ws_frame(0, part[half:])
        elif what == 3:
            yield ws_frame(PING, bytes(size % 126)) + ws_frame(BINARY, part)
        elif what == 4:
            yield ws_frame(PONG, b"") + ws_frame(BINARY, part)
        else:
            yield ws_frame(BINARY, part)
        if not data:
            return


def flip(record: bytearray) -> None:
    record[-1] ^= 1


def change_flags(record: bytearray) -> None:
    record[3] = 5


def empty(record: bytearray) -> None:
    record[:] = bytes([16, 0, 0, 4]) + bytes(16)


def enlarge(record: bytearray) -> None:
    record[:3] = (65_536).to_bytes(3, "little")


def repeat(record: bytearray) -> None:
    record += bytes(record)


def lose(record: bytearray) -> None:
    record.clear()


FAULTS = {each.__name__: each for each in (flip, change_flags, empty, enlarge, repeat, lose)}
"""What may be wrong with a record."""


class Journal:
    """What the handlers of a server have had, by uid."""

    def __init__(self, server: EchoServer) -> None:
        self.lines: list[tuple[int, Any]] = []

        @server.instead(Echo)
        def echo(session: Session, message: Echo) -> Any:
            self.lines.append((session.uid, message))
            if message.text == "later":
                return self.later(session, message)
            if message.text == "raise":
                raise ValueError(message.n)
            if message.text == "close":
                session.close()
            elif message.text == "kick":
                session.kick("enough")
            elif message.text == "abort":
                session.abort()
            elif message.text == "exit":
                raise SystemExit(message.n)
            elif message.text == "unroute":
                if NOTE in server.handlers.routes:
                    del server.handlers.routes[NOTE]
                else:
                    server.on(Note)(lambda session, message: self.lines.append((session.uid, message)))
            elif message.text == "table":
                session.handlers = self.other if session.handlers is server.handlers else server.handlers
            elif message.text == "inject":
                session.inject(Note(message.n))
            elif message.text == "pause":
                session.pause(Pause.LINK)
                asyncio.get_running_loop().call_soon(session.resume, Pause.LINK)
            elif message.text == "broadcast":
                server.broadcast(Blob(b"to all"))
            elif message.text == "full":
                for n in range(5):
                    session.send(Blob(bytes([n]) * 300))
            else:
                session.send(message)
            return None

        @server.on_closed
        def closed(session: Session) -> None:
            assert session.close_code is not None
            self.lines.append((session.uid, (session.close_code.label, session.close_reason)))

        self.other = Handlers(CATALOG)
        self.other.on(Echo)(echo)
        self.other.on(Note)(lambda session, message: self.lines.append((session.uid, ("other", message))))

    async def later(self, session: Session, message: Echo) -> None:
        await asyncio.sleep(0)
        self.lines.append((session.uid, "later"))
        session.send(message)

    def of(self, uid: int) -> list[Any]:
        return [line for who, line in self.lines if who == uid]


def counted(server: EchoServer) -> dict[str, int]:
    """The counters of messages and ends."""
    routes = server.handlers.routes.values()
    return {
        **{f"{route.name} in": route.count for route in routes},
        **{f"{route.name} bytes in": route.bytes for route in routes},
        **{f"{name} out": traffic.messages for name, traffic in server.stats.sent.items()},
        **{f"{name} bytes out": traffic.bytes for name, traffic in server.stats.sent.items()},
        **{f"{name} errors": count for name, count in server.stats.handler_errors.items()},
        **{code.label: count for code, count in server.stats.closed.items()},
        "unhandled": server.stats.unhandled,
        "dropped": server.stats.dropped,
    }


class Wire(asyncio.Protocol):
    """A connection of bytes that takes in whatever comes."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.stream: SecureStream | None = None
        self.decoder = FrameDecoder(1 << 20, turn_frames=1 << 20, turn_bytes=1 << 30)
        self.decoder.allowed = ALL_FLAGS
        self.frames: list[tuple[int, int, bytes]] = []
        self.came = 0
        self.is_open = True
        self.web: WebSocketStream | None = None
        self.shape: Iterator[int] = cycle((8 * 65_535,))
        self.upgrade = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.came += len(data)
        if self.web is not None:
            if not self.upgrade.endswith(b"\r\n\r\n"):
                head, end, data = data.partition(b"\r\n\r\n")
                self.upgrade += head + end
            data = self.web.feed(data)
            self.web.pong = b""
        if self.stream is not None:
            data = self.stream.feed(data)
        self.frames += self.decoder.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False

    def send(self, data: bytes) -> None:
        if self.is_open and not self.transport.is_closing():
            self.write(data if self.stream is None else self.stream.seal(data))

    def write(self, data: bytes) -> None:
        """As it is, or in WebSocket messages."""
        self.transport.write(data if self.web is None else b"".join(web_frames(data, self.shape)))


def acknowledgement(received: int) -> bytes:
    return control_frame(Ack(max(0, received)))


class Run:
    """One trace: a client of a kind, its server, and what they say."""

    def __init__(self, kind: str, way: str, server: EchoServer) -> None:
        self.kind = kind
        self.way = way
        self.shape: list[int] = [8 * 65_535]
        self.server = server
        self.journal = Journal(server)
        self.wire = Wire()
        self.heard: list[Any] = []
        self.received = 0  # messages, as an acknowledgement counts them
        self.attempt = 0
        self.ticket: Ticket | None = None
        self.handshake_hash = NO_HANDSHAKE
        self.counts: list[Any] = []

    # -- the steps --

    async def bytes(self, data: str, sizes: list[int]) -> None:
        """The client sends these bytes, the first ones in pieces of these sizes."""
        rest = bytes.fromhex(data)
        for size in [*sizes, len(rest)]:
            if piece := rest[:size]:
                self.wire.send(piece)
                rest = rest[size:]
                await asyncio.sleep(0)

    async def mixed(self, parts: list[str | int], sizes: list[int]) -> None:
        """As `bytes`, with acknowledgements among the frames. A number is the count of one: by how many it is wrong."""
        self.hear()
        data = [part if isinstance(part, str) else acknowledgement(self.received + part).hex() for part in parts]
        await self.bytes("".join(data), sizes)

    async def records(self, data: str, sizes: list[int], bad: int, fault: str, lacks: int) -> None:
        """The client sends these bytes in one write, sealed in records of these sizes; the rest is in the last one.

        bad: the number of the record that has the fault. lacks: bytes of the last one that do not come.
        """
        stream, rest = self.wire.stream, bytes.fromhex(data)
        if stream is None or not self.wire.is_open:
            return
        sent = []
        for size in [*sizes, len(rest)]:
            if piece := rest[:size]:
                sent.append(bytearray(stream.seal(piece)))
                rest = rest[size:]
        if bad < len(sent):
            FAULTS[fault](sent[bad])
        joined = b"".join(sent)
        self.wire.write(joined[: len(joined) - lacks] if lacks < len(joined) else joined)

    async def shaped(self, shape: list[int]) -> None:
        """From now on the client's WebSocket messages are like this."""
        self.shape = shape
        self.wire.shape = cycle(shape)

    async def web(self, data: str) -> None:
        """The client sends these bytes below everything but TLS, if it speaks WebSocket."""
        if self.wire.web is not None and self.wire.is_open and not self.wire.transport.is_closing():
            self.wire.transport.write(bytes.fromhex(data))

    async def say(self, messages: list[list[int]]) -> None:
        """The server sends all of these in one turn: byte, size, policy, key."""
        session = self.server.sessions.get(7)
        for n, size, full, key in messages:
            if session is not None and session.state in (SessionState.OPEN, SessionState.DETACHED):
                try:
                    session.send(Blob(bytes([n]) * size), full=list(Full)[full], key=key)
                except Exception as error:
                    self.journal.lines.append((7, f"{type(error).__name__}: {error}"))

    async def broadcast(self, n: int, size: int) -> None:
        self.server.broadcast(Blob(bytes([n]) * size))

    async def acknowledge(self, off: int) -> None:
        """The client says how many messages it has; off: by how many that is wrong."""
        self.hear()
        if self.kind in ("resumable", "sealed"):
            self.wire.send(acknowledgement(self.received + off))

    async def cut(self) -> None:
        """The connection breaks."""
        self.hear()
        self.wire.transport.abort()
        await until(lambda: not self.wire.is_open and not self.server.connections)

    async def again(self) -> None:
        """The client comes back, if its connection broke: it resumes, or logs in."""
        if self.wire.is_open:
            return
        await until(lambda: not self.server.connections)
        await self.connect()

    async def close(self, code: int) -> None:
        session = self.server.sessions.get(7)
        if session is not None:
            session.close(CloseCode(code), "as the trace says")

    # -- what they need --

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        endpoint = self.server.endpoint
        tls = certificate()[2] if self.way in ("tls", "wss") else None
        _, self.wire = await loop.create_connection(Wire, endpoint.host, endpoint.port, ssl=tls)
        if self.way == "proxied":
            self.wire.transport.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n")
        if self.way in ("ws", "wss"):
            self.wire.web = WebSocketStream(1 << 20, is_client=True)
            self.wire.shape = cycle(self.shape)
            self.wire.transport.write(request())
            await until(lambda: self.wire.upgrade.endswith(b"\r\n\r\n") or not self.wire.is_open)
        features = Features.RESUME | Features.PING if self.kind in ("resumable", "sealed") else Features.PING
        hello = Hello(features=features, slot=0)
        if self.kind == "sealed":
            initiator = Initiator(KEY.public, hello)
            self.wire.send(initiator.frame)
            await until(lambda: self.wire.frames or not self.wire.is_open)
            if not self.wire.frames:
                return
            sealing = initiator.finish(self.wire.frames.pop()[2])
            self.wire.stream, self.handshake_hash = sealing.stream, sealing.handshake_hash
        elif self.kind != "base":
            self.wire.send(control_frame(hello))
        if self.ticket is not None:
            self.attempt += 1
            key, id = self.ticket.resume_key, self.ticket.session_id
            self.wire.send(control_frame(resume(key, self.handshake_hash, id, self.received, self.attempt)))
        else:
            self.received = 0
            self.wire.send(verify_request(7))
        await self.settle()

    async def settle(self) -> None:
        """Waits until nothing happens any more."""
        quiet, before = 0, None
        while quiet < QUIET:
            await asyncio.sleep(0)
            now = (self.wire.came, self.wire.is_open, len(self.journal.lines), len(self.server.context.tasks))
            quiet = quiet + 1 if now == before else 0
            before = now

    def hear(self) -> None:
        """Takes what came: messages, CLOSE and RESUMED, but none of the records that depend on the time."""
        for id, flags, body in self.wire.frames:
            if not flags & CONTROL:
                if id != HEARTBEAT:
                    self.heard.append([id, flags, body.hex()])
                    self.received += id != VERIFY_SUCCEEDED
                continue
            match decode_control(body):
                case Ticket() as ticket:
                    self.ticket, self.attempt = ticket, 0
                case Close(code, reason):
                    self.heard.append(["CLOSE", code, reason])
                    if code == CloseCode.RESUME_REFUSED:
                        self.ticket = None
                case Resumed(received):
                    self.heard.append(["RESUMED", received])
        self.wire.frames.clear()
        if self.wire.web is not None and self.wire.web.status is not None:
            self.heard.append(["closed with", self.wire.web.status])

    def look(self) -> None:
        """Notes the counts of the session after a step."""
        session = self.server.sessions.get(7)
        if session is None:
            self.counts.append(None)
            return
        outbox, extension = session.outbox, session.extension
        self.counts.append(
            [
                session.state.name,
                [outbox.count, outbox.bytes, outbox.sent, outbox.dropped, outbox.held_bytes],
                None if extension is None else [extension.received, extension.received_bytes, session.unacknowledged],
                session.carried_bytes,
            ]
        )


async def run(kind: str, way: str, steps: list[list[Any]]) -> dict[str, Any]:
    """What a trace does."""
    async with EchoServer(listen_of(way), limits=LIMITS, keys=[KEY], resume_plain=True) as server:
        it = Run(kind, way, server)
        await it.connect()
        for name, *arguments in steps:
            await getattr(it, name)(*arguments)
            await it.settle()
            it.hear()
            it.look()
        it.wire.transport.abort()
        await until(lambda: not server.connections)
        await server.stop(0)
        return {
            "heard": it.heard,
            "handled": [repr(line) for line in it.journal.lines],
            "sessions": it.counts,
            "counters": counted(server),
            "ended": [(uid, code and code.label) for uid, code in server.ended],
        }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed, as the log, is no answer
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            print(json.dumps(runner.run(run(*json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    main()
