"""The server under load, in a process of its own: `python -m benchmarks.hostile.server`, with commands on its stdin."""

import asyncio
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
import uvloop

from benchmarks.children import obey
from benchmarks.handshakes import make_certificate
from benchmarks.harness import HOST
from benchmarks.lateness import Core, Lateness, summary
from benchmarks.listeners import CERTIFICATE, CERTIFICATE_KEY
from gatelink import Catalog, Identity, Limits, Listen, Server, ServerKey, Session, StaticTokens
from gatelink.net.connection import Connection

CATALOG = Catalog()
LIMITS = Limits(exempt=())  # the defaults, and no address is trusted: all of the load comes from 127.0.0.0/8
FIRST_SLOW_UID = 20_000_000
"""From here on, the check of a user's token does not end by itself."""
NEWS_PERIOD = 0.2  # s between two broadcasts
PAGE = os.sysconf("SC_PAGE_SIZE")


@CATALOG.message(20_001)
class Echo(bytes):
    """Comes back as it was sent."""


@CATALOG.message(20_002)
class News(bytes):
    """To everybody; numbered in its first 8 bytes."""


class SlowForSome(StaticTokens):
    """Tokens whose backend answers at once for the good, and never for `WritesOn`."""

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        if uid >= FIRST_SLOW_UID:
            await asyncio.Event().wait()
        return await super().verify(token, uid, source, address)


class HostileServer:
    """Listeners for plain, sealed, TLS and WebSocket connections; an echo; and news for everybody."""

    def __init__(self, files: Path) -> None:
        """files: the folder for the certificate of this run."""
        make_certificate(files)
        self.key = ServerKey.generate()
        self.server = Server(
            f"tcp://{HOST}:0",
            f"tcp://{HOST}:0",
            Listen(endpoint=f"tls://{HOST}:0", certificate=str(files / CERTIFICATE), key=str(files / CERTIFICATE_KEY)),
            f"ws://{HOST}:0",
            tokens=SlowForSome(),
            catalog=CATALOG,
            limits=LIMITS,
            keys=[self.key],
            admin=f"{HOST}:0",
        )
        self.server.on(Echo)(self._echo)
        self.lateness: Lateness
        self.most_memory = 0
        self._core = Core()

    def _echo(self, session: Session, message: Echo) -> None:
        session.send(message)

    async def _tell_news(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(NEWS_PERIOD)
            self.server.sessions.broadcast(News(number.to_bytes(8, "little") * 25))
            number += 1

    async def _watch_memory(self) -> None:
        while True:
            self.most_memory = max(self.most_memory, memory())
            await asyncio.sleep(0.1)

    def start(self) -> dict[str, Any]:
        plain, sealed, tls, websocket = self.server.endpoints
        return {
            "plain": plain.port,
            "sealed": sealed.port,
            "tls": tls.port,
            "ws": websocket.port,
            "key": self.key.public.hex(),
            "admin": self.server.admin_port,
        }

    def phase(self) -> dict[str, Any]:
        """What was seen since the last call."""
        cpu, waited = self._core.take()
        seen = {
            "lag": summary(self.lateness.take()),
            "cpu": cpu,
            "waited": waited,
            "memory": memory(),
            "most_memory": self.most_memory,
            "most_unverified": max((each.held_bytes for each in self._unverified()), default=0),
        }
        self.most_memory = 0
        return seen

    def _unverified(self) -> Iterator[Connection]:
        """The connections without a session."""
        return (each for each in self.server.connections if not isinstance(each.receiver, Session))

    async def main(self) -> None:
        self.lateness = Lateness()
        async with self.server, asyncio.TaskGroup() as tasks:
            gc.collect()
            gc.freeze()  # as `Server.serve` does
            work = [tasks.create_task(self._tell_news()), tasks.create_task(self._watch_memory())]
            await obey({"start": self.start, "phase": self.phase})
            for task in work:
                task.cancel()
            await self.server.stop(0)


def memory() -> int:
    """This process's resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(HostileServer(Path(folder)).main())
