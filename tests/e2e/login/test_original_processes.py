"""Deployed clients at real processes: `gatelink up` with a login, two gateways and a service behind them."""

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from examples.demo import reserved_ports
from gatelink.testing import BaseClient
from tests.e2e.base_clients import SAY, say
from tests.e2e.test_up import gatelink
from tests.support import TEST_TIMEOUT

GAME = """
import msgspec
from gatelink import Catalog, Service
from gatelink.wire.codecs import I32

catalog = Catalog()
lobby = Service("lobby", type=12, catalog=catalog)


@catalog.message(12_001, codec="binary")
class Say(msgspec.Struct):
    n: I32
    text: bytes = b""


@lobby.on_verified
def enter(player):
    player.send(Say(1_000 + player.returned))


@lobby.on(Say)
def say(player, message):
    player.send(message)
    if message.n == -1:
        player.close()
    elif message.n == -2:
        player.kick("out")
"""
CLUSTER = """
[engine]
data = "engine"
[accounts]
url = "sqlite:///accounts.db"
argon2 = {{ time_cost = 1, memory_kib = 1024, parallelism = 1 }}
[login]
listen = "http://127.0.0.1:{login}"
methods = ["password"]
[gateway]
listen = ["tcp://127.0.0.1:{gateway}"]
count = 2
drain_seconds = 1
[services.lobby]
type = 12
run = "game:lobby"
"""
ANNA = {"User": "anna", "Password": "correct horse"}
ANSWER, FAILED, DUPLICATE, END = 2, 3, 24, 0
NEW, RETURNED, CLOSE, KICK = 1_000, 1_001, -1, -2
"""What the service says to a player at the beginning, and what it does when a player says so."""


class Place(NamedTuple):
    """http: asks the login service. gateways: the endpoints of both."""

    http: httpx.AsyncClient
    gateways: tuple[str, str]

    async def log_in(self) -> Mapping[str, Any]:
        reply: Mapping[str, Any] = (await self.http.post("/login", json=ANNA)).json()
        assert (reply["Result"], reply["HB"]) == (0, True), reply
        return reply

    def other(self, reply: Mapping[str, Any]) -> str:
        """The gateway to which this login was not sent."""
        (found,) = {*self.gateways} - {at(reply)}
        return found


def at(reply: Mapping[str, Any]) -> str:
    return f"tcp://{reply['LobbyAddr']}"


def device(reply: Mapping[str, Any]) -> BaseClient:
    return BaseClient(reply["UID"], reply["Token"].encode())


def numbers(client: BaseClient) -> list[int]:
    return [struct.unpack_from("<i", heard.body)[0] for heard in client.events if heard.id == SAY]


async def ends(reply: Mapping[str, Any], times: int) -> list[int]:
    """The messages that a device gets which connects so often, 0.1 s after each end, until the server closes."""
    heard: list[int] = []
    for _ in range(times):
        await asyncio.sleep(0.1)
        async with device(reply) as client:
            await client.open(at(reply))
            await client.closed()
            heard += [event.id for event in client.events]
    return heard


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    (folder / "game.py").write_text(GAME)
    with reserved_ports() as login, reserved_ports(2) as gateway:
        (folder / "cluster.toml").write_text(CLUSTER.format(login=login, gateway=gateway))
        async with gatelink("up", "cluster.toml", "--dev", "--log-level", "debug", folder=folder) as up:
            await up.lines_with("gateway-1 + linked", "gateway-2 + linked", "login + started")
            reading = asyncio.create_task(up.end())
            url = f"http://127.0.0.1:{login}"
            gateways = f"tcp://127.0.0.1:{gateway}", f"tcp://127.0.0.1:{gateway + 1}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=TEST_TIMEOUT) as http:
                assert (await http.post("/create", json=ANNA)).json()["Result"] == 0
                yield Place(http, gateways)
            up.process.terminate()
            await reading


async def test_of_two_devices_that_come_back_at_once_the_newer_plays_on_and_loses_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        first = await there.log_in()
        async with device(first) as older:
            await older.open(at(first))
            await older.verified()
            second = await there.log_in()
            async with device(second) as newer:
                for n in range(200):
                    newer.send(SAY, say(n))
                await newer.open(at(second))
                await newer.until(lambda: len(numbers(newer)) == 201)
                assert numbers(newer) == [NEW, *range(200)]
                await older.closed()
                assert [heard.id for heard in older.events][-2:] == [DUPLICATE, END]
                assert await ends(first, 3) == [FAILED, END] * 3
                newer.send(SAY, say(200))
                await newer.until(lambda: numbers(newer)[-1] == 200)
                assert END not in [heard.id for heard in newer.events]


async def test_a_return_and_the_last_words_are_right_at_another_gateway(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        reply = await there.log_in()
        async with device(reply) as older, device(reply) as newer:
            await older.open(at(reply))
            assert (await older.verified()).type == 0
            await older.message(SAY)
            await newer.open(there.other(reply))
            assert (await newer.verified()).type == 1
            await older.closed()
            assert [heard.id for heard in older.events] == [ANSWER, SAY, DUPLICATE, END]
            await newer.message(SAY)
            newer.send(SAY, say(CLOSE))
            await newer.closed()
            assert numbers(newer) == [RETURNED, CLOSE] and newer.events[-1].id == END
        async with device(reply) as again:
            await again.open(at(reply))
            assert (await again.verified()).type == 0
            again.send(SAY, say(KICK))
            await again.closed()
            assert numbers(again) == [NEW, KICK] and again.events[-1].id == END
        assert await ends(reply, 1) == [FAILED, END]
