"""The files of docs/cluster.md, written out as they stand there, are a cluster and its test."""

import asyncio
import re
from pathlib import Path

import pytest

from gatelink.login.client import LoginClient
from tests.e2e.test_up import Up
from tests.processes import ROOT, ended, python

PAGE = ROOT / "docs" / "cluster.md"
FILES = re.compile(r"^```(?:python|toml)\n# (\w+\.(?:py|toml))\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's files; the servers listen on ports that are free."""
    found = dict(FILES.findall(PAGE.read_text()))
    assert set(found) == {"lobby.py", "cluster.toml", "client.py", "test_lobby.py"}
    for name, text in found.items():
        (tmp_path / name).write_text(re.sub("127.0.0.1:(?:7000|8080)", "127.0.0.1:0", text))
    return tmp_path


async def test_the_first_cluster_of_the_page_runs_and_its_client_hears_the_room(folder: Path) -> None:
    wide = {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    async with python(
        "-m", "gatelink", "up", "cluster.toml", "--dev", cwd=folder, environment=wide, merged=True
    ) as cluster:
        started = re.search(r"listen='(http://[0-9.:]+)'", await Up(cluster).line("login ", "started"))
        assert started is not None and cluster.stdout is not None
        reading = asyncio.create_task(cluster.stdout.read())  # so that it is never full
        async with LoginClient(started[1]) as login:
            while len(await login.servers()) < 2:  # noqa: ASYNC110 - nothing tells a stranger when both have registered
                await asyncio.sleep(0.05)
        client = folder / "client.py"
        client.write_text(client.read_text().replace("http://127.0.0.1:0", started[1]))
        async with python("client.py", cwd=folder) as player:
            assert await ended(player) == (0, "1000000 is in harbour\n", "")
        cluster.terminate()
        await reading
        assert await cluster.wait() == 0


async def test_the_test_of_the_page_runs_a_cluster_in_one_process(folder: Path) -> None:
    async with python("test_lobby.py", cwd=folder) as test:
        status, said, wrong = await ended(test)
    assert status == 0 and "7 is in harbour\n" in said, said + wrong
