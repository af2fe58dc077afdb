"""A game in one file: `gatelink serve game:server`, and `python game.py` as a client."""

import asyncio
import sys

from msgspec import Struct

from gatelink import (
    ConnectError,
    Handlers,
    Server,
    Session,
    StaticTokens,
    connect,
    message,
)


@message(11001)  # from 11000 on; client and server know a message by this number
class Guess(Struct):
    number: int


@message(11002)
class Hint(Struct):
    text: str


server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens())


@server.on(Guess)
def guess(session: Session, message: Guess) -> None:
    if message.number == 42:
        session.send(Hint("right!"))
    else:
        session.send(Hint("more" if message.number < 42 else "less"))


async def play(address: str) -> None:
    hints: asyncio.Queue[str] = asyncio.Queue()
    handlers = Handlers()
    handlers.on(Hint)(lambda session, message: hints.put_nowait(message.text))
    session = await connect(address, uid=7, token=f"{7:032d}", handlers=handlers)
    for number in (50, 25, 42):
        session.send(Guess(number))
        print(number, await hints.get())
    session.close()
    await session.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(play(*sys.argv[1:] or ["tcp://127.0.0.1:7000"]))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
