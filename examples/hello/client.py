"""Say hello to the server, and print its answer."""

import asyncio
import sys

from examples.hello.server import Hello
from gatelink import ConnectError, Handlers, Session, connect

handlers = Handlers()


@handlers.on(Hello)
def hello(session: Session, message: Hello) -> None:
    print(message.text)
    session.close()


async def main(address: str) -> None:
    session = await connect(address, uid=7, token=f"{7:032d}", handlers=handlers)
    session.send(Hello("hello"))
    await session.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or ["tcp://127.0.0.1:7000"]))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
