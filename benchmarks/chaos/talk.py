"""Both sides: send numbered messages in bursts, and keep a ledger of the messages that they receive."""

import asyncio
from collections import Counter
from random import Random
from time import perf_counter
from typing import Any

from benchmarks.ledger import Ledger
from gatelink import Catalog, Limits, Session, SessionClosed

CATALOG = Catalog()
BURST = 10  # messages that one side sends at once in one session
TICK = 0.01  # s between two looks at what is due

LIMITS = Limits(
    heartbeat_interval=1.0,  # so that a dead path is left after 3 s
    heartbeat_timeout=3.0,
    window_frames=128,  # so that windows fill while a connection is broken
)
"""Of both sides."""


@CATALOG.message(20_001)
class Numbered(bytes):
    """A number in 4 bytes, and up to 60 more that follow from it."""


def body(number: int) -> Numbered:
    """The bytes of message `number`."""
    return Numbered((number.to_bytes(4, "little") + b"%020d" % number * 3)[: 4 + number * 7 % 61])


class Frontend:
    """One side of all sessions."""

    def __init__(self) -> None:
        self.sent = 0
        self.taken = 0
        self.corrupt = 0
        self.ended: Counter[str] = Counter()  # sessions, by close code
        self._sending: asyncio.Task[None] | None = None
        self._ledgers: dict[int, Ledger] = {}

    def hear(self, session: Session, message: Numbered) -> None:
        """The handler of `Numbered`."""
        number = int.from_bytes(message[:4], "little")
        self._ledgers[session.uid].take(number)
        self.taken += 1
        if message != body(number):
            self.corrupt += 1

    def opened(self, session: Session) -> None:
        self._ledgers[session.uid] = Ledger()

    def closed(self, session: Session) -> None:
        if session.close_code is not None:
            self.ended[session.close_code.label] += 1

    def begin(self, sessions: list[Session], messages: int, seconds: float, seed: str) -> None:
        """Begins to send `messages` in each session, in bursts spread evenly over `seconds`."""
        self._sending = asyncio.create_task(self._send_all(sessions, messages, seconds, seed))

    def progress(self) -> dict[str, Any]:
        """How far this side is. Raises what ended its sending."""
        if self._sending is not None and self._sending.done():
            self._sending.result()
        return {"sent": self.sent, "taken": self.taken, "ended": self.ended}

    async def _send_all(self, sessions: list[Session], messages: int, seconds: float, seed: str) -> None:
        random = Random(seed)
        began = perf_counter()
        step = seconds / (len(sessions) * -(-messages // BURST))
        at = 0
        for first in range(0, messages, BURST):
            random.shuffle(sessions)  # each round in another order
            burst = [body(number) for number in range(first, min(first + BURST, messages))]
            for session in sessions:
                while perf_counter() < began + at * step:  # noqa: ASYNC110 - it is time that we wait for
                    await asyncio.sleep(TICK)
                at += 1
                try:
                    for message in burst:
                        session.send(message)
                except SessionClosed:
                    continue  # it is in `ended`
                self.sent += len(burst)

    def losses(self, messages: int) -> Counter[str]:
        """The results for the `messages` of every session."""
        total = Counter(lost=0, doubled=0, reordered=0, corrupt=self.corrupt)
        for ledger in self._ledgers.values():
            total.update(ledger.losses(messages))
        return total
