"""The files of gatelink that a message passes, in order, as docs/architecture.md lists them.

A profile function notes each file of `src/gatelink` in which a call begins. A journey is taken in the steady state:
after a few messages, so that encoders exist and timers stand. The shortest of several runs counts: in a longer one a
timer came due, or the time of a slow handler was noted in its histogram.
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
from gatelink import Session, _native
from tests.e2e.cluster.support import CATALOG, Ask, cluster, player
from tests.e2e.support import Echo, RawClient, closing, frame_of, serving

pytestmark = pytest.mark.skipif(_native.core is not None, reason="the compiled core has no files")
SOURCE = Path(gatelink.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "architecture.md"
WARM_UP, RUNS = 20, 20

RECEIVE = "A message comes in"
SEND = "`send` to the socket"
FORWARD = "A forwarded round trip"
MOST = {RECEIVE: 6, SEND: 5, FORWARD: 14}


class Tracer:
    """Notes the files in which calls begin, between `start` and `stop`.

    A coroutine that goes on is a "call", too. Only where a function begins, the argument of its RESUME is 0 (dis).

    It does little at each call: a handler that it slows down counts as slow, and takes a longer way.
    """

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._is_on = False

    @property
    def files(self) -> list[str]:
        """The files of gatelink, in the order in which they were entered."""
        paths = [Path(path) for path in self._paths]
        return [str(path.relative_to(SOURCE)) for path in paths if path.is_relative_to(SOURCE)]

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(before)

    def start(self) -> None:
        self._paths = {}
        self._is_on = True

    def stop(self) -> None:
        self._is_on = False

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._is_on and event == "call" and not frame.f_code.co_code[frame.f_lasti + 1]:
            self._paths[frame.f_code.co_filename] = None


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
        async with player(gateway, 7, base_protocol=True) as client:
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
