"""The files of gatelink that a message passes, in order, as docs/architecture.md lists them.

A profile function notes each file of `src/gatelink` in which a call begins. A journey is taken in the steady state:
after a few messages, so that encoders exist and timers stand. The shortest of several runs counts: in a longer one a
timer came due.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gatelink
from gatelink import Session
from tests.e2e.cluster.support import CATALOG, Ask, cluster, player
from tests.e2e.support import Echo, RawClient, closing, frame_of, serving

SOURCE = Path(gatelink.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "architecture.md"
WARM_UP, RUNS = 20, 20

RECEIVE = "A message comes in"
SEND = "`send` to the socket"
FORWARD = "A forwarded round trip"
MOST = {RECEIVE: 6, SEND: 5, FORWARD: 14}


class Tracer:
    """Notes the files in which calls begin, between `start` and `stop`."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._is_on = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    def start(self) -> None:
        self.files = []
        self._is_on = True

    def stop(self) -> None:
        self._is_on = False

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_on and event == "call":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(SOURCE) and (name := str(path.relative_to(SOURCE))) not in self.files:
                self.files.append(name)


async def shortest(tracer: Tracer, send: Callable[[int], Awaitable[None]]) -> list[str]:
    """The shortest journey of several messages. `send` sends one, and returns when it has arrived."""
    for n in range(WARM_UP):
        await send(n)
    runs = []
    with tracer.installed():
        for n in range(WARM_UP, WARM_UP + RUNS):
            await send(n)
            runs.append(tracer.files)
    return min(runs, key=len)


async def on_one_server(tracer: Tracer, in_handler: Callable[[], None]) -> list[str]:
    """Of an echo. `in_handler` starts or stops the tracer, which runs from the client's write to its read otherwise."""
    async with serving() as server, closing(RawClient.verified(server, 7)) as client:

        @server.instead(Echo)
        def handler(session: Session, message: Echo) -> None:
            in_handler()
            session.send(message)

        async def send(n: int) -> None:
            frame = frame_of(Echo(n))
            tracer.start()
            client.send(frame)
            await client.reader.readexactly(len(frame))
            tracer.stop()

        files = await shortest(tracer, send)
    return files


async def received() -> list[str]:
    tracer = Tracer()
    return await on_one_server(tracer, tracer.stop)


async def sent() -> list[str]:
    tracer = Tracer()
    return await on_one_server(tracer, tracer.start)


async def forwarded() -> list[str]:
    tracer = Tracer()
    async with cluster() as town:
        gateway = await town.gateway(1)
        await town.lobby(20)
        async with player(gateway, 7) as client:
            arrived = asyncio.Event()

            def receive(_: Session, message: Ask) -> None:
                tracer.stop()
                arrived.set()

            del client.handlers.routes[CATALOG.of_type(Ask).id]
            client.handlers.on(Ask)(receive)

            async def send(n: int) -> None:
                arrived.clear()
                tracer.start()
                client.session.send(Ask(n))
                await arrived.wait()

            return await shortest(tracer, send)


JOURNEYS = {RECEIVE: received, SEND: sent, FORWARD: forwarded}


@pytest.mark.parametrize("title", JOURNEYS)
async def test_a_message_passes_few_files(title: str) -> None:
    files = await JOURNEYS[title]()
    assert len(files) <= MOST[title], files
    assert files == documented(title), f"docs/architecture.md, {title!r}: write the files of the run"


def documented(title: str) -> list[str]:
    """The files that the page has for a journey."""
    found = re.search(rf"^### {re.escape(title)}\n\nFiles, in order: (.*?)\.\n\n", PAGE.read_text(), re.M | re.S)
    assert found is not None, f"docs/architecture.md has no '### {title}' with 'Files, in order: '"
    return re.findall(r"`([\w/]+\.py)`", found[1])
