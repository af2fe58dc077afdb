"""Send one message of each codec, and print the answers."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from examples.codecs.inventory_pb import Inventory
from examples.codecs.messages import Chat, Profile, Shot, Spell, Voice, catalog
from gatelink import ConnectError, Handlers, RawFrame, Session, connect

UNKNOWN = 14999  # an id that neither side has registered

MESSAGES = [
    Chat("hello " * 20, tags=["loud"]),
    Profile("Ada", level=7),
    Shot(target=8, weapon=1, x=0.5, y=-2.0),
    Voice(b"\x00\x7f\xff"),
    Inventory(items=["rope", "lamp"], gold=12),
    Spell("light", cost=3),
]


async def main(address: str, show: Callable[[Any], None] = print) -> None:
    handlers = Handlers(catalog)

    @handlers.default
    def back(session: Session, message: Any) -> None:
        show(message)

    @handlers.on_forward
    def raw(session: Session, frame: RawFrame) -> None:
        show(frame)
        session.close()

    session = await connect(
        address, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog
    )
    for message in MESSAGES:
        session.send(message)
    session.send_raw(UNKNOWN, b"as it is")
    await session.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:7000"))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
