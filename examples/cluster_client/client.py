"""A client for a whole cluster: a guest who says hello, whatever gateways do."""

import asyncio
import sys

from examples.hello.server import Hello
from gatelink import ConnectError, Handlers, Session, connect_cluster
from gatelink.login.client import LoginFailed

handlers = Handlers()


@handlers.on(Hello)
def hello(session: Session, message: Hello) -> None:
    print(message.text)


@handlers.on_resumed
def resumed(session: Session) -> None:
    print("connected again, and nothing was lost")


@handlers.on_restarted
def restarted(session: Session) -> None:
    print("a new session: the server has forgotten the old one")
    session.send(Hello("hello again"))  # before what waited


async def main(login: str, device_id: str) -> None:
    async with await connect_cluster(login, guest=device_id, handlers=handlers) as client:
        client.send(Hello("hello"))
        await client.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (ConnectError, LoginFailed) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
