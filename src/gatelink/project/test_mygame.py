"""The chat over real connections: `make test`."""

import asyncio
from unittest import IsolatedAsyncioTestCase

from gatelink import Handlers, Session, connect
from mygame.messages import Said, Say
from mygame.server import server


class TestChat(IsolatedAsyncioTestCase):
    async def test_everybody_hears_what_anybody_says(self) -> None:
        heard: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        handlers = Handlers()

        @handlers.on(Said)
        def said(session: Session, message: Said) -> None:
            heard.put_nowait((message.uid, message.text))

        server.listen = ("tcp://127.0.0.1:0",)  # any free port
        async with server, asyncio.timeout(10):
            address = str(server.endpoints[0])
            first = await connect(address, uid=1, token=f"{1:032d}", handlers=handlers)
            await connect(address, uid=2, token=f"{2:032d}", handlers=handlers)
            first.send(Say("hello"))
            self.assertEqual([await heard.get(), await heard.get()], [(1, "hello")] * 2)
