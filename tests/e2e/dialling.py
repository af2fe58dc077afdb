"""Sessions that tests dial with `connect`, and what their handlers hear."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gatelink import (
    Backoff,
    Handlers,
    Limits,
    Session,
    connect,
)
from gatelink.net.dialer import TokenSource
from tests.e2e.support import (
    CATALOG,
    Echo,
    token_of,
)
from tests.fakes import settle
from tests.support import MS

SOON = Backoff(first=10 * MS, most=20 * MS, attempts=200)


class Seen:
    """A table that remembers what a session hears."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.echoes: asyncio.Queue[int] = asyncio.Queue()
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: self.echoes.put_nowait(message.n))
        handlers.on_verified(lambda session: self.events.append("verified"))
        handlers.on_suspended(lambda session: self.events.append("suspended"))
        handlers.on_resumed(lambda session: self.events.append("resumed"))
        handlers.on_closed(lambda session: self.events.append(f"closed {session.close_code:d}"))


async def dial(
    endpoint: object,
    seen: Seen | None = None,
    *,
    uid: int = 7,
    token: bytes | TokenSource | None = None,
    timeout: float = 20_000 * MS,  # noqa: ASYNC109
    reconnect: Backoff | None = None,
    tls: ssl.SSLContext | None = None,
    slot: int | None = None,
    resume: bool = False,
    server_key: bytes | None = None,
) -> Session:
    return await connect(
        str(endpoint),
        uid=uid,
        token=token if callable(token) else (token or token_of(uid)).decode("utf-8", "surrogateescape"),
        handlers=(seen or Seen()).handlers,
        timeout=timeout,
        reconnect=reconnect,
        tls=tls,
        slot=slot or 0,
        resume=resume,
        base_protocol=slot is None and not resume and server_key is None,
        server_key=server_key,
        catalog=CATALOG,
        limits=Limits(close_timeout=100 * MS),  # what a server that does not close may take
    )


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """The port of a listener of loopback that gives each connection to `serve`. In the end all of them are aborted."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await settle()


@asynccontextmanager
async def answering(data: bytes, close: bool = False) -> AsyncIterator[str]:
    """The endpoint of a listener that answers every connection with `data`, and may close it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            writer.close()

    async with listening(answer) as port:
        yield f"tcp://127.0.0.1:{port}"
