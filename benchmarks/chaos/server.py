"""The server, in a process of its own: `python -m benchmarks.chaos.server`, with commands on its stdin."""

from typing import Any

import structlog
import uvloop

from benchmarks.chaos.talk import CATALOG, LIMITS, Frontend, Numbered
from benchmarks.children import obey
from benchmarks.harness import HOST
from gatelink import Server, ServerKey, Session, StaticTokens


class ChaosServer:
    """An ordinary server with ordinary handlers, sealed connections only."""

    def __init__(self) -> None:
        self.key = ServerKey.generate()
        self.server = server = Server(
            f"tcp://{HOST}:0",
            f"ws://{HOST}:0",
            tokens=StaticTokens(),
            catalog=CATALOG,
            limits=LIMITS,
            keys=[self.key],
            sealed_only=True,
        )
        self.side = Frontend()
        self.resumed = 0
        self.users: dict[int, Session] = {}
        server.on(Numbered)(self.side.hear)
        server.on_closed(self.side.closed)
        server.on_verified(self._verified)
        server.on_resumed(self._resumed)

    def _verified(self, session: Session) -> None:
        self.side.opened(session)
        self.users[session.uid] = session

    def _resumed(self, session: Session) -> None:
        self.resumed += 1

    def start(self, scheme: str) -> dict[str, Any]:
        """Where clients of a scheme, tcp or ws, connect, and the key of the server."""
        (endpoint,) = (each for each in self.server.endpoints if each.scheme == scheme)
        return {"port": endpoint.port, "key": self.key.public.hex()}

    def begin(self, messages: int, over: float, seed: int) -> int:
        """Begin to send to all sessions, for `over` seconds. Returns their number."""
        sessions = list(self.users.values())
        self.side.begin(sessions, messages, over, f"{seed}/down")
        return len(sessions)

    def report(self, messages: int) -> dict[str, Any]:
        return {
            "losses": self.side.losses(messages),
            "sessions": len(self.server.sessions),
            "same": sum(self.server.sessions.get(uid) is session for uid, session in self.users.items()),
            "verified": self.server.stats.verified,
            "noticed": self.resumed,
        }

    async def main(self) -> None:
        async with self.server:
            await obey(
                {"start": self.start, "begin": self.begin, "progress": self.side.progress, "report": self.report},
            )
            await self.server.stop(0)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    uvloop.run(ChaosServer().main())
