"""All clients, in a process of their own: `python -m benchmarks.chaos.clients`, with commands on its stdin."""

import asyncio
from collections import Counter
from time import perf_counter
from typing import Any

import uvloop

from benchmarks.chaos.talk import CATALOG, LIMITS, Frontend, Numbered
from benchmarks.children import obey
from benchmarks.harness import HOST
from benchmarks.lateness import summary
from gatelink import Backoff, Handlers, Session, connect
from gatelink.robots.tally import LatencyHistogram

BACKOFF = Backoff(first=0.05, most=1.0, attempts=1_000)
DIALLING = 3.0  # s for one attempt
AT_ONCE = 50  # logins under way


class Clients:
    """Ordinary clients that resume."""

    def __init__(self) -> None:
        self.side = Frontend()
        self.sessions: list[Session] = []
        self.handlers = handlers = Handlers(CATALOG)
        self.times = LatencyHistogram()  # from `suspended` to `resumed`
        self.undisturbed = LatencyHistogram()  # of them, those of which the first RESUME was answered
        self.breaks: Counter[int] = Counter()  # seen by its session, by uid
        self._since: dict[int, tuple[float, int]] = {}  # when it broke, and its last attempt by then
        handlers.on(Numbered)(self.side.hear)
        handlers.on_verified(self.side.opened)
        handlers.on_closed(self.side.closed)
        handlers.on_suspended(self._suspended)
        handlers.on_resumed(self._resumed)

    def _suspended(self, session: Session) -> None:
        assert session.extension is not None
        self.breaks[session.uid] += 1
        self._since[session.uid] = perf_counter(), session.extension.attempt

    def _resumed(self, session: Session) -> None:
        assert session.extension is not None
        since, attempt = self._since.pop(session.uid)
        took = perf_counter() - since
        self.times.add(took)
        if session.extension.attempt == attempt + 1:
            self.undisturbed.add(took)

    async def login(self, scheme: str, port: int, key: str, sessions: int) -> int:
        """Log in as uid 1 to `sessions`. Returns how many are logged in."""
        places = asyncio.Semaphore(AT_ONCE)

        async def one(uid: int) -> Session:
            async with places:
                return await connect(
                    f"{scheme}://{HOST}:{port}",
                    uid=uid,
                    token=f"{uid:032d}",
                    handlers=self.handlers,
                    catalog=CATALOG,
                    limits=LIMITS,
                    timeout=DIALLING,
                    reconnect=BACKOFF,
                    server_key=bytes.fromhex(key),
                    resume=True,
                )

        self.sessions = list(await asyncio.gather(*(one(uid) for uid in range(1, sessions + 1))))
        return len(self.sessions)

    def begin(self, messages: int, over: float, seed: int) -> None:
        self.side.begin(list(self.sessions), messages, over, f"{seed}/up")

    def progress(self) -> dict[str, Any]:
        return {**self.side.progress(), "resumed": self.times.count}

    def report(self, messages: int) -> dict[str, Any]:
        attempts = sum(session.extension.attempt for session in self.sessions if session.extension is not None)
        return {
            "losses": self.side.losses(messages),
            "open": sum(session.close_code is None for session in self.sessions),
            "breaks": self.breaks.total(),
            "least": min(self.breaks[session.uid] for session in self.sessions),
            "most": max(self.breaks.values(), default=0),
            "resumed": self.times.count,
            "in_resume": attempts - self.times.count,  # RESUME was sent, and no RESUMED taken
            "times": summary(self.times),
            "undisturbed": summary(self.undisturbed),
        }

    async def main(self) -> None:
        await obey({"login": self.login, "begin": self.begin, "progress": self.progress, "report": self.report})
        for session in self.sessions:
            session.abort()


if __name__ == "__main__":
    uvloop.run(Clients().main())
