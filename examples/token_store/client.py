"""Log in with a token and stay until the session closes.

With a third argument, ban that user first.

python -m examples.token_store.client UID TOKEN [UID]
"""

import asyncio
import sys

from examples.token_store.messages import Ban, Banned, Welcome, catalog
from gatelink import ConnectError, Handlers, Session, connect

handlers = Handlers(catalog)


@handlers.on(Welcome)
def welcome(session: Session, message: Welcome) -> None:
    print(f"in as {message.name}")


@handlers.on(Banned)
def banned(session: Session, message: Banned) -> None:
    print(f"{message.uid} is banned; {message.sessions} sessions were open")


@handlers.on_closed
def closed(session: Session) -> None:
    assert session.close_code is not None
    print(f"out: {session.close_code.explanation}")


async def main(address: str, uid: int, token: str, ban: int | None = None) -> None:
    session = await connect(
        address, uid=uid, token=token, handlers=handlers, catalog=catalog
    )
    if ban is not None:
        session.send(Ban(ban))
    await session.wait_closed()


if __name__ == "__main__":
    try:
        uid, token, *ban = sys.argv[1:]
        asyncio.run(main("tcp://127.0.0.1:7000", int(uid), token, *map(int, ban)))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
