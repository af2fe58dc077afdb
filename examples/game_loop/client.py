"""A player that goes east for a distance of 1, then stops and leaves."""

import asyncio
import sys

from examples.game_loop.messages import Position, Steer, catalog
from gatelink import ConnectError, Handlers, Session, connect

handlers = Handlers(catalog)


@handlers.on(Position)
def position(session: Session, message: Position) -> None:
    print(f"player {message.uid} is at {message.x:.2f}, {message.y:.2f}")
    if message.uid == session.uid and message.x >= 1:
        session.send(Steer(0, 0))
        session.close()


async def main(address: str) -> None:
    session = await connect(
        address, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog
    )
    session.send(Steer(1, 0))
    await session.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or ["tcp://127.0.0.1:7000"]))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
