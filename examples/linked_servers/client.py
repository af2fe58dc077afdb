"""Run both servers, and pay a coin 500 times, while their link breaks again and again.

python -m examples.linked_servers.client
"""

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from examples.linked_servers import bank, front
from examples.linked_servers.messages import Paid, Pay, catalog
from gatelink import Handlers, Session, connect
from gatelink.ops.logs import configure
from gatelink.testing import ChaosProxy, Reset

COINS = 500


async def main() -> tuple[int, int]:
    """The coins in the bank, and how often the link broke."""
    handlers = Handlers(catalog)

    @handlers.on(Paid)
    def paid(session: Session, message: Paid) -> None:
        if message.coins < COINS:
            session.send(Pay(1))
        else:
            session.close()

    bank.server.listen = (replace(bank.listen, endpoint="tcp://127.0.0.1:0"),)
    front.server.listen = ("tcp://127.0.0.1:0",)
    script = [Reset(direction="up", after_bytes=4_000)]
    async with (
        bank.server,
        ChaosProxy(("127.0.0.1", bank.server.endpoints[0].port), script) as proxy,
    ):
        front.bank_address = f"tcp://127.0.0.1:{proxy.address[1]}"
        async with front.server:
            address = str(front.server.endpoints[0])
            session = await connect(
                address, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog
            )
            session.send(Pay(1))
            await session.wait_closed()
        return bank.accounts[7], proxy.breaks


if __name__ == "__main__":
    configure(level="warning")
    with suppress(KeyboardInterrupt):
        coins, breaks = asyncio.run(main())
        print(f"{coins} coins of {COINS} are in the bank; the link broke {breaks} times")
