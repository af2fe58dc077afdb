"""A table of handlers that takes notes, and frames for it."""

import asyncio
from typing import Any

from gatelink.handlers import Handlers
from gatelink.session.session import Session
from gatelink.wire.frames import Frame
from gatelink.wire.messages import Catalog
from tests.fakes import CATALOG, COUNT, SAY, Bench, Count, FakeStream, Say


def say(text: str) -> Frame:
    return SAY, 0, CATALOG.by_id[SAY].encode(Say(text))


def count(n: int) -> Frame:
    return COUNT, 0, CATALOG.by_id[COUNT].encode(Count(n))


BAD: Frame = (SAY, 0, b"\xc1 is never msgpack")


def opened(bench: Bench, handlers: Handlers, **about: Any) -> tuple[Session, FakeStream]:
    session, stream = bench.session(handlers, **about)
    session.open()
    return session, stream


class Seen:
    """A table that notes what it handles: Say in a plain function, Count in an async one that waits for `gate`."""

    def __init__(self, catalog: Catalog = CATALOG) -> None:
        self.notes: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.handlers = Handlers(catalog)
        self.handlers.on(Say)(self.say)
        self.handlers.on(Count)(self.count)
        self.handlers.on_verified(lambda session: self.notes.append("verified"))
        self.handlers.on_closed(lambda session: self.notes.append("closed"))

    def say(self, session: Session, message: Say) -> None:
        self.notes.append(message.text)

    async def count(self, session: Session, message: Count) -> None:
        self.notes.append(message.n)
        await self.gate.wait()
        self.notes.append(-message.n)
