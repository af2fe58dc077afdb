"""A slow reader: a hundred stills are taken while the network delivers nothing.

python -m examples.slow_readers.slow latest    # or recent, or all
"""

import asyncio
import sys
from contextlib import suppress
from math import inf
from typing import Any

from examples.slow_readers import server as camera
from examples.slow_readers.messages import Still, Watch, catalog
from gatelink import Handlers, Session, connect
from gatelink.ops.logs import configure
from gatelink.testing import ChaosProxy


class Watcher:
    """Keeps the numbers of its stills, and leaves with number `goal`."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.began = asyncio.Event()
        self.goal = inf

    def on_still(self, session: Session, message: Still) -> None:
        self.numbers.append(message.number)
        self.began.set()
        if message.number == self.goal:
            session.close()


async def main(how: Any) -> Watcher:
    """The numbers that a slow watcher of this kind gets."""
    watcher = Watcher()
    handlers = Handlers(catalog)
    handlers.register(watcher)
    camera.is_on = True
    camera.server.listen = ("tcp://127.0.0.1:0",)
    async with (
        camera.server as server,
        ChaosProxy(("127.0.0.1", server.endpoints[0].port)) as proxy,
    ):
        address = f"tcp://127.0.0.1:{proxy.address[1]}"
        session = await connect(
            address, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog
        )
        session.send(Watch(how))
        await watcher.began.wait()
        proxy.pause()
        camera.is_on = False
        watcher.goal = camera.number + 100
        for _ in range(100):
            camera.take_picture()
            await asyncio.sleep(0)  # the server writes as much as it can
        proxy.resume()
        await session.wait_closed()
        print(
            f"{how}: saw {watcher.numbers}; "
            f"closes: {[code.label for code in server.stats.closed]}"
        )
    return watcher


if __name__ == "__main__":
    configure(level="warning")
    with suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
