"""Count to a thousand, while every connection is reset after 4,000 bytes.

It runs the server too.

python -m examples.resume.client
"""

import asyncio
from contextlib import suppress

from examples.resume.server import Number, catalog, server
from gatelink import Backoff, Handlers, Session, connect
from gatelink.ops.logs import configure
from gatelink.testing import ChaosProxy, Reset

LAST = 1_000


async def main() -> tuple[list[int], int]:
    """The numbers that came back, and how often the connection broke."""
    seen: list[int] = []
    handlers = Handlers(catalog)

    @handlers.on(Number)
    def number(session: Session, message: Number) -> None:
        seen.append(message.n)
        if message.n < LAST:
            session.send(Number(message.n + 1))
        else:
            session.close()

    server.listen = ("tcp://127.0.0.1:0",)
    script = [Reset(direction="down", after_bytes=4_000)]
    async with (
        server,
        ChaosProxy(("127.0.0.1", server.endpoints[0].port), script) as proxy,
    ):
        session = await connect(
            f"tcp://127.0.0.1:{proxy.address[1]}",
            uid=7,
            token=f"{7:032d}",
            handlers=handlers,
            catalog=catalog,
            server_key=server.public_key,
            resume=True,
            reconnect=Backoff(first=0.01, most=0.1),
        )
        session.send(Number(1))
        await session.wait_closed()
        return seen, proxy.breaks


if __name__ == "__main__":
    configure(level="warning")
    with suppress(KeyboardInterrupt):
        seen, breaks = asyncio.run(main())
        print(
            f"1 to {LAST}, each once and in order: {seen == list(range(1, LAST + 1))}; "
            f"connections broken: {breaks}"
        )
