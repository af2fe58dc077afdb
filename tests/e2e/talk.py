"""A client and a server that talk through a proxy, and what each of them heard."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from gatelink import Backoff, ConnectError, Handlers, Limits, Listen, ServerKey, connect
from gatelink.testing import ChaosProxy, Fault
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    EchoServer,
    Note,
    serving,
    token_of,
    until,
)
from tests.support import MS

KEY = ServerKey.generate()
SOON = Backoff(first=5 * MS, most=20 * MS, attempts=500)
AHEAD = 2_000  # messages; a queue holds four times as many


class Talk:
    """A client and a server that number what they send, and note what they hear."""

    def __init__(self, server: EchoServer, uid: int = 7) -> None:
        self.server = server
        self.uid = uid
        self.heard: list[int] = []  # by the client
        self.events: list[str] = []
        self.sent = self.pushed = 0
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Note)(lambda session, message: self.heard.append(message.n))
        handlers.on(Blob)(lambda session, message: None)
        handlers.on_suspended(lambda session: self.events.append("suspended"))
        handlers.on_resumed(lambda session: self.events.append("resumed"))
        handlers.on_closed(lambda session: self.events.append(f"closed {session.close_code:d}"))

    async def begin(self, where: object, **how: Any) -> Self:
        """Connects; where connections break, until it succeeds."""
        settings: dict[str, Any] = {"reconnect": SOON, "handlers": self.handlers, "catalog": CATALOG, "resume": True}
        settings |= how
        for _ in range(20):
            with suppress(ConnectError):
                self.session = await connect(str(where), uid=self.uid, token=token_of(self.uid).decode(), **settings)
                break
        other = self.server.session(self.uid)
        assert other.extension is not None
        self.other = other
        return self

    def say(self, count: int = 1) -> None:
        """Both sides send."""
        for _ in range(count):
            self.session.send(Note(self.sent))
            self.sent += 1
            self.other.send(Note(self.pushed))
            self.pushed += 1

    async def chatter(self, rounds: int, count: int = 5) -> None:
        """Both sides send, unless one is so far ahead that its queue could fill up before a connection stands again."""
        for _ in range(rounds):
            if max(self.pushed - len(self.heard), self.sent - len(self.reached)) < AHEAD:
                self.say(count)
            await asyncio.sleep(MS)

    @property
    def reached(self) -> list[int]:
        """What the server heard."""
        return [n for uid, n in self.server.notes if uid == self.uid]

    async def all_heard(self) -> None:
        await until(
            lambda: len(self.heard) >= self.pushed and len(self.reached) >= self.sent,
            f"{len(self.heard)} of {self.pushed} down, {len(self.reached)} of {self.sent} up",
        )
        assert self.heard == list(range(self.pushed))
        assert self.reached == list(range(self.sent))

    async def end(self) -> None:
        """All was heard, and the session is the one it was."""
        await self.all_heard()
        assert self.session.close_code is None and self.server.sessions.get(self.uid) is self.other


KINDS = ["plain", "sealed", "tls"]


@asynccontextmanager
async def talking(
    kind: str = "sealed",
    script: Sequence[Fault] = (),
    *,
    seed: int = 0,
    certificate: tuple[str, str, ssl.SSLContext] | None = None,
    limits: Limits | None = None,
    client_limits: Limits | None = None,
) -> AsyncIterator[tuple[Talk, ChaosProxy]]:
    """A `Talk` through a proxy; the connection is of one of KINDS."""
    listen: str | Listen = TCP
    how: dict[str, Any] = {"limits": client_limits or limits or Limits()}
    if kind == "tls":
        assert certificate is not None
        listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate[0], key=certificate[1])
        how["tls"] = certificate[2]
    elif kind == "sealed":
        how["server_key"] = KEY.public
    async with (
        serving(listen, keys=[KEY], resume_plain=kind == "plain", limits=limits) as server,
        ChaosProxy((server.endpoint.host, server.endpoint.port), script, seed=seed) as proxy,
    ):
        scheme = "tls" if kind == "tls" else "tcp"
        talk = await Talk(server).begin(f"{scheme}://127.0.0.1:{proxy.address[1]}", **how)
        try:
            yield talk, proxy
        finally:
            talk.session.abort()
