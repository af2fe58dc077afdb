"""The server of the soak, in a process of its own: `python -m tests.adversity.soak_server`, told by its stdin."""

import os
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from benchmarks.children import obey
from benchmarks.ledger import Ledger
from gatelink import Catalog, Limits, Listen, Server, ServerKey, Session, StaticTokens

CATALOG = Catalog()
PAGE = os.sysconf("SC_PAGE_SIZE")

LIMITS = Limits(
    verify_timeout=3.0,  # everything that ends by itself does so within seconds, so that what is left over shows
    heartbeat_interval=0.5,
    heartbeat_timeout=2.0,
    resume_window=20.0,
    backlog_window=5.0,
    close_timeout=2.0,
    max_outbox_bytes=262_144,
)


@CATALOG.message(11_001)
class Note(msgspec.Struct):
    """Comes back as it was sent; numbered by its sender."""

    n: int
    text: str = ""


@CATALOG.message(11_002)
class Blob(bytes):
    """Comes back as it was sent."""


@CATALOG.message(11_003)
class Bye(msgspec.Struct):
    """The last; how many Notes there were before it."""

    count: int


@CATALOG.message(11_004)
class Verdict(msgspec.Struct):
    """What became of them."""

    wrong: dict[str, int]


@CATALOG.message(11_005)
class KickMe(msgspec.Struct):
    """What the server does."""


class SoakServer:
    """An echo that checks the order of what it hears."""

    server: Server

    async def start(self, certificate: str, key: str) -> dict[str, Any]:
        server_key = ServerKey.generate()
        self.server = server = Server(
            "tcp://127.0.0.1:0",
            Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key),
            tokens=StaticTokens(),
            catalog=CATALOG,
            limits=LIMITS,
            keys=[server_key],
        )
        server.on(Note)(self._note)
        server.on(Blob)(lambda session, message: session.send(message))
        server.on(Bye)(self._bye)
        server.on(KickMe)(lambda session, message: session.kick("as asked"))
        await server.start()
        tcp, tls = server.endpoints
        return {"tcp": tcp.port, "tls": tls.port, "key": server_key.public.hex()}

    def _note(self, session: Session, message: Note) -> None:
        ledger: Ledger | None = session.data
        if ledger is None:
            ledger = session.data = Ledger()
            if not session.extension is not None:
                ledger.next = message.n  # a user who is back goes on counting, and may have lost some in the break
        ledger.take(message.n)
        session.send(message)

    def _bye(self, session: Session, message: Bye) -> None:
        wrong = (session.data or Ledger()).losses(message.count)
        session.send(Verdict(wrong))

    def sample(self) -> dict[str, Any]:
        """What this process holds at this moment."""
        return {
            "memory": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            "files": len(os.listdir("/proc/self/fd")),
            "connections": len(self.server.connections),
            "sessions": len(self.server.sessions),
            "verified": self.server.stats.verified,
            "closed": {code.label: count for code, count in self.server.stats.closed.items()},
            "errors": self.server.stats.handler_errors.total(),
        }

    async def stop(self) -> None:
        await self.server.stop(0)

    async def main(self) -> None:
        await obey({"start": self.start, "sample": self.sample, "stop": self.stop})


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    uvloop.run(SoakServer().main())
