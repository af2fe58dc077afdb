"""The duel example: in one process and as a service behind a gateway, the same game."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.duel.duel import Duel
from examples.duel.leaders import Leaderboard
from examples.duel.messages import (
    Accepted,
    Board,
    Challenge,
    Invite,
    Play,
    Row,
    Top,
    Watch,
    Why,
)
from gatelink import (
    ClusterKey,
    Gateway,
    Handlers,
    Membership,
    Refuse,
    RequestFailed,
    Server,
    Service,
    Session,
    StaticTokens,
    connect,
)
from gatelink.testing import MemoryEngine
from tests.e2e.support import TCP, token_of, until

ROOT = Path(__file__).resolve().parents[2]
Where = Callable[[float], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _one_process(seconds: float) -> AsyncIterator[str]:
    server = Server(TCP, tokens=StaticTokens(), resume_plain=True)
    server.register(Duel(server, Leaderboard(":memory:"), seconds))
    async with server:
        yield str(server.endpoints[0])


@asynccontextmanager
async def _a_cluster(seconds: float) -> AsyncIterator[str]:
    keys = (ClusterKey.generate(),)
    async with MemoryEngine() as engine:
        service = Service("duel", type=43, member=Membership(engine=engine, keys=keys, id=43_001))
        service.register(Duel(service, Leaderboard(":memory:"), seconds))
        member = Membership(engine=engine, keys=keys, id=1)
        async with service, Gateway(TCP, tokens=StaticTokens(), member=member, resume_plain=True) as gateway:
            yield str(gateway.endpoints[0])


@pytest.fixture(params=[_one_process, _a_cluster], ids=["one process", "a cluster"])
def where(request: pytest.FixtureRequest) -> Where:
    make: Where = request.param
    return make


class Player:
    """One client: the boards that it was sent, and whether it accepts."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.accepts = True
        self.boards: list[Board] = []
        self.session: Session

    async def connect(self, address: str) -> "Player":
        handlers = Handlers()
        handlers.on(Board)(lambda session, board: self.boards.append(board))

        @handlers.on(Challenge)
        def challenged(session: Session, message: Challenge) -> Accepted:
            if not self.accepts:
                raise Refuse(Why.DECLINED, "not now")
            return Accepted()

        self.session = await connect(
            address, uid=self.uid, token=token_of(self.uid).decode(), handlers=handlers, slot=0
        )
        return self

    async def refusal(self, request: Any) -> int:
        with pytest.raises(RequestFailed) as raised:
            await self.session.request(request)
        return raised.value.detail


async def players(address: str, *uids: int) -> list[Player]:
    found = [await Player(uid).connect(address) for uid in uids]
    for player in found:
        while True:  # behind a gateway: until its service knows the player
            try:
                await player.session.request(Top())
                break
            except RequestFailed:
                await asyncio.sleep(0.05)
    return found


async def test_a_match_from_the_invitation_to_the_leaderboard(where: Where) -> None:
    async with where(60.0) as address:
        ann, bob, eve = await players(address, 1, 2, 3)
        assert await ann.refusal(Invite(9)) == Why.NOT_HERE
        bob.accepts = False
        assert await ann.refusal(Invite(2)) == Why.DECLINED
        bob.accepts = True
        board = await ann.session.request(Invite(2))
        assert (board.x, board.o, board.next, board.cells) == (1, 2, 1, ".........")
        assert await eve.refusal(Invite(1)) == Why.BUSY
        assert (await eve.session.request(Watch(board.match))).cells == "........."
        assert await bob.refusal(Play(0)) == Why.NOT_YOUR_TURN
        for player, cell in ((ann, 0), (bob, 3), (ann, 1), (bob, 4)):
            await player.session.request(Play(cell))
        assert await ann.refusal(Play(4)) == Why.TAKEN
        last = await ann.session.request(Play(2))
        assert (last.winner, last.next, last.cells) == (1, 0, "XXXOO....")
        await until(lambda: all(player.boards[-1].winner == 1 for player in (ann, bob, eve)))
        assert [board.cells.count(".") for board in eve.boards] == [8, 7, 6, 5, 4], "the spectator saw each move"
        assert (await eve.session.request(Top())).rows == [Row(1, 1, 1), Row(2, 0, 1)]
        assert await ann.refusal(Play(5)) == Why.NO_MATCH
        for player in (ann, bob, eve):
            player.session.abort()


async def test_a_player_that_comes_back_sees_its_match_and_the_clock_decides_it_otherwise(where: Where) -> None:
    async with where(3.0) as address:
        ann, bob = await players(address, 1, 2)
        await ann.session.request(Invite(2))
        await ann.session.request(Play(4))
        ann.session.abort()
        await until(lambda: bob.boards[-1].away == [1])
        (ann,) = await players(address, 1)
        await until(lambda: bool(ann.boards) and ann.boards[-1].cells == "....X....")
        await until(lambda: bob.boards[-1].away == [])
        await until(lambda: ann.boards[-1].winner == 1, "the clock of the other player ran out")
        assert (await bob.session.request(Top())).rows == [Row(1, 1, 1), Row(2, 0, 1)]
        for player in (ann, bob):
            player.session.abort()


async def test_strict_robots_find_nothing_wrong(where: Where) -> None:
    async with where(60.0) as address:
        command = [sys.executable, "-m", "gatelink", "robots", "examples.duel.robots:Duellist"]
        process = await asyncio.create_subprocess_exec(
            *command,
            "--address",
            address,
            "--count",
            "8",
            "--seconds",
            "5",
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, out.decode()
        assert b"play" in out


def test_the_server_s_part_is_small() -> None:
    files = ("duel.py", "match.py", "leaders.py", "single.py", "services.py")
    lines = sum(len((ROOT / "examples/duel" / file).read_text().splitlines()) for file in files)
    assert lines <= 300  # of at most 90 columns
