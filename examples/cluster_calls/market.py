"""Two services: posts over their link, and calls and events through the engine.

They run in this one process, so that it can be tried alone:

    python -m examples.cluster_calls.market
"""

import asyncio
from contextlib import suppress

from msgspec import Struct

from gatelink import Catalog, ClusterKey, Membership, Service, Session
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.ops.logs import configure

PRICES = {"lamp": 12, "rope": 3}

catalog = Catalog()
bank = Service("bank", type=31, catalog=catalog)
shop = Service("shop", type=32, catalog=catalog)


@catalog.message(31001)
class Sold(Struct):
    item: str
    coins: int


@catalog.message(32001)
class Price(Struct):
    """A call, which Costs answers."""

    item: str


@catalog.message(32002)
class Costs(Struct):
    coins: int


@catalog.message(32003)
class Bell(Struct):
    rings: int


@bank.on_post(Sold)
def sold(link: Session, message: Sold) -> None:
    print(f"server {link.uid} sold a {message.item} for {message.coins}")
    closing.set()


@shop.on_call(Price)
async def price(request: Price) -> Costs:
    return Costs(PRICES[request.item])


@shop.on_event("bell")
def bell(message: Bell) -> None:
    print(f"the bell rings {message.rings} times")
    shop.cluster.post("bank", Sold("lamp", PRICES["lamp"]))


closing = asyncio.Event()


async def main() -> None:
    engine, keys = MemoryEngine(), [ClusterKey.generate()]
    bank.member = Membership(engine=engine, keys=keys, id=31001)
    shop.member = Membership(engine=engine, keys=keys, id=32001)
    async with engine, bank, shop:
        while not shop.cluster.servers("bank"):  # noqa: ASYNC110 - they find each other in a moment
            await asyncio.sleep(0.01)
        costs = await bank.cluster.call("shop", Price("rope"), timeout=2.0)
        print(f"a rope costs {costs.coins}")
        await bank.cluster.publish("bell", Bell(rings=2))
        await closing.wait()


if __name__ == "__main__":
    configure(level="warning")
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
