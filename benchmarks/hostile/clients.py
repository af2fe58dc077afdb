"""The good clients, in a process of their own: `python -m benchmarks.hostile.clients`, with commands on its stdin.

Every session has an address of its own. Half of them are sealed. All of them use TCP, or all of them WebSocket.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, cast

import uvloop

from benchmarks.children import obey
from benchmarks.harness import HOST
from benchmarks.hostile.server import CATALOG, Echo, News
from benchmarks.hostile.websocket import REQUEST
from benchmarks.lateness import Core, Lateness, summary
from benchmarks.rawclient import VERIFY_SUCCEEDED, frame, verify_request
from gatelink.robots.tally import LatencyHistogram
from gatelink.wire.control import Hello
from gatelink.wire.frames import MAX_LENGTH, FrameDecoder
from gatelink.wire.handshake import Initiator
from gatelink.wire.secure import SecureStream
from gatelink.wire.websocket import WebSocketStream

ECHO, NEWS = CATALOG.find(Echo).id, CATALOG.find(News).id
ECHO_PERIOD = 0.5  # s between two messages of one session
LOGIN_PERIOD = 0.1  # s between two newcomers
FIRST_UID = 1
FIRST_NEWCOMER = 1_000_000
FILLER = bytes(56)


class Good(asyncio.Protocol):
    """One well-behaved client; `key` seals it. `ended` is called when its connection is gone.

    web: the framing of its WebSocket, if it uses one.
    """

    transport: asyncio.Transport

    def __init__(
        self, uid: int, key: bytes | None, web: WebSocketStream | None, ended: "Callable[[Good], None]"
    ) -> None:
        self.verified = False
        self.leaving = False
        self.waiting: deque[float] = deque()  # when each message without an answer was sent
        self.wrong = 0  # answers that were not the next
        self.times: LatencyHistogram
        self._uid = uid
        self._initiator = Initiator(key, Hello(features=0, slot=0)) if key is not None else None
        self._stream: SecureStream | None = None
        self._web = web
        self._answer: bytes | None = None if web is None else b""  # to the request of its WebSocket, until it is whole
        self._decoder = FrameDecoder(MAX_LENGTH, 1 if key is not None else 1 << 20, 1 << 30)
        self._ended = ended
        self._began = perf_counter()
        self._next = self._sent = 0
        self._news = -1
        self.on_verified: Callable[[float], None] = lambda seconds: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._web is None:
            self._begin()
        else:
            self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer += data
            head, end, data = self._answer.partition(b"\r\n\r\n")
            if not end or b" 101 " not in head:
                return
            self._answer = None
            self._begin()
        self._received(data if self._web is None else self._web.feed(data))

    def _begin(self) -> None:
        self._write(self._initiator.frame if self._initiator is not None else verify_request(self._uid))

    def _received(self, data: bytes) -> None:
        if self._initiator is not None:
            answers = self._decoder.feed(data)
            if not answers:
                return
            self._stream = self._initiator.finish(answers[0][2]).stream
            data, self._initiator = self._decoder.take_rest(), None
            self._decoder = FrameDecoder(MAX_LENGTH, 1 << 20, 1 << 30)
            self._write(verify_request(self._uid))
        if self._stream is not None:
            data = self._stream.feed(data)
        for id, _, body in self._decoder.feed(data):
            if id == ECHO:
                self.times.add(perf_counter() - self.waiting.popleft())
                self.wrong += body[:8] != self._next.to_bytes(8, "little")
                self._next += 1
            elif id == NEWS:
                number = int.from_bytes(body[:8], "little")
                self.wrong += self._news >= 0 and number != self._news + 1
                self._news = number
            elif id == VERIFY_SUCCEEDED:
                self.verified = True
                self.on_verified(perf_counter() - self._began)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(self)

    def echo(self) -> None:
        """Sends the next message."""
        self.waiting.append(perf_counter())
        self._write(frame(ECHO, self._sent.to_bytes(8, "little") + FILLER))
        self._sent += 1

    def leave(self) -> None:
        self.leaving = True
        self.transport.close()

    def _write(self, data: bytes) -> None:
        if self._stream is not None:
            data = self._stream.seal(data)
        self.transport.write(data if self._web is None else self._web.wrap(data))


async def until(condition: Callable[[], bool]) -> None:
    """Waits for `condition`, for 10 s at most."""
    deadline = perf_counter() + 10
    while perf_counter() < deadline and not condition():  # noqa: ASYNC110 - hundreds of connections' doing
        await asyncio.sleep(0.01)


class Clients:
    """Sessions that stay, with an echo each half a second; and newcomers, ten a second, that log in and leave."""

    def __init__(self) -> None:
        self.sessions: list[Good] = []
        self.echoes = LatencyHistogram()
        self.logins = LatencyHistogram()
        self.lost = 0  # sessions that the server ended
        self.refused = 0  # newcomers that did not get in
        self.lateness: Lateness
        self._where: dict[str, Any] = {}
        self._is_web = False
        self._work: list[asyncio.Task[None]] = []
        self._core = Core()

    async def login(self, where: dict[str, Any], websocket: bool, sessions: int) -> int:
        """Logs in, a hundred a second at most; how many are verified."""
        self._where = where
        self._is_web = websocket
        for number in range(sessions):
            self.sessions.append(await self._connect(FIRST_UID + number, f"127.100.{number >> 8}.{number & 255}"))
            await asyncio.sleep(0.005)
        await until(lambda: all(client.verified for client in self.sessions))
        return sum(client.verified for client in self.sessions)

    def begin(self) -> None:
        self._work = [asyncio.create_task(self._echo_all()), asyncio.create_task(self._send_newcomers())]

    def phase(self) -> dict[str, Any]:
        """What was seen since the last call."""
        for task in self._work:
            if task.done():
                task.result()
        echoes, self.echoes = self.echoes, LatencyHistogram()
        logins, self.logins = self.logins, LatencyHistogram()
        refused, self.refused = self.refused, 0
        return {
            "echo": summary(echoes),
            "login": summary(logins),
            "refused": refused,
            "cpu": self._core.take()[0],
            "lag": summary(self.lateness.take()),
        }

    async def finish(self) -> dict[str, int]:
        """Ends sending, and waits for what is on its way; what was lost of sessions, messages and answers."""
        for task in self._work:
            task.cancel()
        await until(lambda: not any(client.waiting for client in self.sessions))
        for client in self.sessions:
            client.leave()
        return {
            "sessions lost": self.lost,
            "messages lost": sum(len(client.waiting) for client in self.sessions),
            "answers wrong": sum(client.wrong for client in self.sessions),
        }

    async def _echo_all(self) -> None:
        step = ECHO_PERIOD / len(self.sessions)
        began, at = perf_counter(), 0
        while True:
            while perf_counter() >= began + at * step:
                client = self.sessions[at % len(self.sessions)]
                client.times = self.echoes
                if not client.transport.is_closing():
                    client.echo()
                at += 1
            await asyncio.sleep(0.001)

    async def _send_newcomers(self) -> None:
        number = 0
        while True:
            host = f"127.{101 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
            await self._connect(FIRST_NEWCOMER + number, host, newcomer=True)
            number += 1
            await asyncio.sleep(LOGIN_PERIOD)

    async def _connect(self, uid: int, host: str, newcomer: bool = False) -> Good:
        """A client on its way; every second one is sealed."""
        kind = "sealed" if uid % 2 else "plain"
        key = bytes.fromhex(self._where["key"]) if uid % 2 else None
        web = WebSocketStream(MAX_LENGTH, is_client=True) if self._is_web else None
        client = Good(uid, key, web, self._newcomer_ended if newcomer else self._ended)
        client.times = self.echoes
        if newcomer:

            def verified(seconds: float) -> None:
                self.logins.add(seconds)
                client.leave()

            client.on_verified = verified
        loop = asyncio.get_running_loop()
        try:
            port = self._where["ws" if self._is_web else kind]
            await loop.create_connection(lambda: client, HOST, port, local_addr=(host, 0))
        except OSError:
            client._ended(client)
        return client

    def _ended(self, client: Good) -> None:
        self.lost += not client.leaving

    def _newcomer_ended(self, client: Good) -> None:
        self.refused += not client.leaving

    async def main(self) -> None:
        self.lateness = Lateness()
        await obey({"login": self.login, "begin": self.begin, "phase": self.phase, "finish": self.finish})


if __name__ == "__main__":
    uvloop.run(Clients().main())
