"""A lobby or a gateway in a process of its own, which a test stops and continues.

`python -m tests.e2e.cluster.frozen lobby|gateway URL BUCKET KEY` prints `started`, a gateway with its address. The
lobby prints the number of each message that it handles, and each close of a player.
"""

import asyncio
import sys
from typing import Any

from gatelink import StaticTokens
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.handlers import CLOSED
from gatelink.wire.keys import ClusterKey
from tests.e2e.cluster.support import CATALOG, LOBBY, QUICK_LINKS, Recorder, Say
from tests.e2e.support import TCP


def say(*words: Any) -> None:
    print(*words, flush=True)


def make_lobby(member: Membership) -> Recorder:
    lobby = Recorder("lobby", LOBBY, member=member, link_limits=QUICK_LINKS)

    @lobby.instead(Say)
    def heard(session: Any, message: Say) -> None:
        say("heard", message.n)

    del lobby.handlers.routes[CLOSED]
    lobby.on_closed(lambda session: say("closed", int(session.close_code)))
    return lobby


async def main(which: str, url: str, bucket: str, key: str) -> None:
    async with NatsEngine(url, bucket=bucket) as engine:
        member = Membership(engine=engine, keys=[ClusterKey.from_hex(key)], id=20 if which == "lobby" else 1)
        if which == "lobby":
            async with make_lobby(member):
                say("started")
                await asyncio.Event().wait()
        else:
            async with Gateway(
                TCP, tokens=StaticTokens(), catalog=CATALOG, member=member, link_limits=QUICK_LINKS
            ) as gateway:
                say("started", gateway.endpoints[0])
                await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
