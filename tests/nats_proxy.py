"""A proxy between one process and a nats-server, which loses, doubles and delays single requests and answers.

It knows enough of NATS' protocol to leave everything else alone. An answer is a message to the reply subject of a
request that came through here.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from random import Random
from typing import Self

_Knows = Callable[[list[bytes]], bool]
"""Whether a line with these words is a request, or an answer."""

MAX_REPLIES = 4_096  # reply subjects that are remembered


class NatsProxy:
    """Listens on a free port of 127.0.0.1, and connects to `port` there.

    rate: the part of requests and of answers that something happens to. longest: the longest delay in seconds.
    """

    def __init__(self, port: int, random: Random, rate: float = 0.0, longest: float = 0.5) -> None:
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self.port = 0
        self._target = port
        self._random = random
        self._longest = longest
        self._server: asyncio.Server | None = None
        self._is_away = False
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.cut()
        self._server.close()
        await asyncio.gather(*(connection.over.wait() for connection in self._connections))

    def within(self, url: str) -> str:
        """`url` with the port of this proxy."""
        return f"{url.rpartition(':')[0]}:{self.port}"

    def cut(self) -> None:
        """The engine is away: connections break, and new ones do too."""
        self._is_away = True
        for connection in list(self._connections):
            connection.abort()

    def silence(self) -> None:
        """The engine is away: nothing passes, and nobody is told."""
        for connection in self._connections:
            connection.is_silent = True

    def mend(self) -> None:
        """The engine is back. Connections that were silent break now, as what they swallowed can't be sent again."""
        self._is_away = False
        for connection in list(self._connections):
            if connection.is_silent:
                connection.abort()

    def draw(self, what: str) -> tuple[int, float]:
        """How often a request or answer is sent, and after how many seconds."""
        if self._random.random() >= self.rate:
            return 1, 0.0
        fault = self._random.choice(("lost", "doubled", "late"))
        self.faults[f"{what} {fault}"] += 1
        late = self._random.uniform(0.0, self._longest)
        return {"lost": (0, 0.0), "doubled": (2, 0.0), "late": (1, late)}[fault]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_away:
            writer.transport.abort()
            return
        connection = _Connection(self, writer)
        self._connections.add(connection)
        try:
            await connection.run(reader, self._target)
        finally:
            self._connections.discard(connection)
            connection.abort()
            connection.over.set()


class _Connection:
    def __init__(self, proxy: NatsProxy, client: asyncio.StreamWriter) -> None:
        self.is_silent = False
        self.over = asyncio.Event()
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._replies: OrderedDict[bytes, None] = OrderedDict()

    def abort(self) -> None:
        for writer in (self._client, self._server):
            if writer is not None:
                writer.transport.abort()

    async def run(self, reader: asyncio.StreamReader, port: int) -> None:
        with contextlib.suppress(OSError):
            from_server, self._server = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
            up = asyncio.ensure_future(self._pass(reader, self._server, self._is_request, "request"))
            down = asyncio.ensure_future(self._pass(from_server, self._client, self._is_answer, "answer"))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, knows: _Knows, what: str) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                line = await reader.readuntil(b"\r\n")
                words = line.split()
                is_fair_game = False
                if words and words[0].upper() in (b"PUB", b"HPUB", b"MSG", b"HMSG"):
                    line += await reader.readexactly(int(words[-1]) + 2)
                    is_fair_game = knows(words)
                if self.is_silent:
                    continue
                times, late = self._proxy.draw(what) if is_fair_game else (1, 0.0)
                if late:
                    asyncio.get_running_loop().call_later(late, self._write, writer, line)
                else:
                    self._write(writer, line * times)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if data and not self.is_silent and not writer.transport.is_closing():
            writer.write(data)

    def _is_request(self, words: list[bytes]) -> bool:
        """PUB subject [reply] bytes; HPUB has one number more."""
        if len(words) < (4 if words[0].upper() == b"PUB" else 5):
            return False
        self._replies[words[2]] = None
        if len(self._replies) > MAX_REPLIES:
            self._replies.popitem(last=False)
        return True

    def _is_answer(self, words: list[bytes]) -> bool:
        """MSG subject sid [reply] bytes."""
        return words[1] in self._replies
