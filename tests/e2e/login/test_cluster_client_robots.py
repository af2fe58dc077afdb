"""Robots that log in at a login service, and come back by themselves."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gatelink import (
    ServerKey,
)
from gatelink.robots import LoadTest, Robot
from tests.e2e.login.town import CATALOG, KEY, SOON, Double, Doubled, Note, town
from tests.e2e.support import until

pytestmark = pytest.mark.usefixtures("gone_soon")

SCENARIO = """
from msgspec import Struct
from gatelink import message
from gatelink.robots import Robot

@message(12_001)
class Note(Struct):
    n: int

class Good(Robot):
    async def run(self):
        await self.connect()
        self.send(Note(1))
        await self.expect(Note)
"""


class Asker(Robot):
    """A guest that asks, loses its gateway, and asks again."""

    catalog = CATALOG
    cut: Callable[[], Awaitable[None]]

    async def run(self) -> None:
        session = await self.connect()
        assert self.client is not None and session is self.session and session.uid == self.uid > 1_000
        assert await self.request(Double(1)) == Doubled(2)
        await type(self).cut()
        await until(lambda: self.session is not session)
        self.send(Note(7))
        assert await self.expect(Doubled, Note, timeout=60) == Note(7)
        assert await self.request(Double(2)) == Doubled(4)


async def test_robots_log_in_at_a_login_service_and_come_back_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(tmp_path) as t:
        done = asyncio.Event()

        async def cut() -> None:
            if not done.is_set() and len(t.gates[0].sessions) == 3:
                done.set()
                await t.kill(t.gates[0])
            await done.wait()

        monkeypatch.setattr(Asker, "cut", staticmethod(cut), raising=False)
        run = LoadTest(Asker, login=t.login.url, server_key=KEY.public, reconnect=SOON, count=3, seconds=60)
        tally = await run.run()
        assert tally.error_texts == {}
        assert tally.counts["sessions restarted"] == 3 and tally.sessions == 0
        assert len({robot.uid for robot in run.robots}) == 3


async def test_a_robot_with_a_wrong_key_fails(tmp_path: Path) -> None:
    async with town(tmp_path, gates=1) as t:
        key = ServerKey.generate().public
        run = LoadTest(Asker, login=t.login.url, server_key=key, count=1, seconds=6, timeout=3.0)
        assert "server_key is not a key of this server" in str((await run.run()).error_texts)


async def test_the_command_runs_robots_against_a_sealed_cluster(tmp_path: Path) -> None:
    (tmp_path / "sealed.py").write_text(SCENARIO)
    async with town(tmp_path, sealed_only=True) as t:
        for wanted, where in (
            (0, ["--login", t.login.url]),
            (0, ["--login", t.login.url, "--server-key", KEY.public.hex()]),
            (78, ["--login", t.login.url, "--server-key", "abc"]),
            (78, ["--login", t.login.url, "--address", "tcp://127.0.0.1:1"]),
            (78, ["--login", "no-url"]),
        ):
            arguments = ["robots", "sealed:Good", *where, "--count", "2", "--seconds", "3", "--ramp", "0"]
            ran = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gatelink", *arguments, cwd=tmp_path, stdout=PIPE, stderr=STDOUT
            )
            said, _ = await ran.communicate()
            assert ran.returncode == wanted, said.decode()
