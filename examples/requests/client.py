"""Three clients join a room for two, and one renews its login. It runs the server too.

python -m examples.requests.client
"""

import asyncio
from contextlib import suppress

from examples.requests.server import Answered, Join, MayJoin, Why, catalog, server, tokens
from gatelink import Handlers, RequestCode, RequestFailed, Session, connect
from gatelink.ops.logs import configure

handlers = Handlers(catalog)


@handlers.on(MayJoin)
def may_join(session: Session, message: MayJoin) -> Answered:
    return Answered(yes=True)


async def fresh_token(uid: int) -> str:
    """A game asks its login service."""
    return tokens.issue(uid)


async def enter(session: Session) -> str:
    try:
        joined = await session.request(Join("blue"), timeout=10)
    except RequestFailed as failed:
        if failed.code is RequestCode.REFUSED and failed.detail == Why.FULL:
            return f"{session.uid} is refused: {failed.reason}"
        raise
    return f"{session.uid} is in the room with {joined.players}"


async def main() -> list[str]:
    server.listen = ("tcp://127.0.0.1:0",)
    async with server:
        endpoint = str(server.endpoints[0])
        players = [
            await connect(
                endpoint,
                uid=uid,
                token=await fresh_token(uid),
                catalog=catalog,
                handlers=handlers,
            )
            for uid in (7, 8, 9)
        ]
        told = [await enter(player) for player in players]
        await players[0].renew(await fresh_token(7))
        told.append(f"{players[0].uid} has renewed its login")
        for player in players:
            player.close()
            await player.wait_closed()
        return told


if __name__ == "__main__":
    configure(level="warning")
    with suppress(KeyboardInterrupt):
        print("\n".join(asyncio.run(main())))
