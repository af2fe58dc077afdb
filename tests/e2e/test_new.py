"""What `gatelink new` makes runs at once: its test, its server, its cluster and its robots.

Also the steps in Python of docs/browser-tutorial.md; those in the browser are in tests/browser/tutorial.py.
"""

import asyncio
import re
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from gatelink.cli.new import new
from gatelink.login.client import LoginClient
from tests import tutorial
from tests.e2e.test_up import Up
from tests.processes import Process, ended, program, python

ROBOTS = "-m", "gatelink", "robots", "lobby.robots:Talker", "--count", "5", "--ramp", "0.1", "--seconds", "5"
WIDE = {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def made(folder: Path) -> Path:
    """A new project with the environment of the tests; its servers listen on ports that are free."""
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    new(folder)
    for name in (f"{folder.name}/server.py", "cluster.toml"):
        file = folder / name
        file.write_text(re.sub(r"://127.0.0.1:(?:7000|7800|8000|8080)", "://127.0.0.1:0", file.read_text()))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return made(tmp_path / "lobby")


async def fetched(url: str) -> bytes:
    def fetch() -> bytes:
        with urlopen(url, timeout=60) as reply:
            found: bytes = reply.read()
        return found

    return await asyncio.to_thread(fetch)


async def line(process: Process, *words: str) -> str:
    """The next line of the process's output with these words."""
    assert process.stdout is not None
    while text := (await process.stdout.readline()).decode():
        if all(word in text for word in words):
            return text
    raise AssertionError(f"ended without a line with {words}")


def test_the_name_of_the_folder_is_the_project_s_everywhere(project: Path) -> None:
    files = [each for each in project.rglob("*") if ".venv" not in each.parts and each.is_file()]
    assert {"Makefile", "README.md", "cluster.toml", "test_lobby.py", "page.js", ".gitignore"} <= {
        each.name for each in files
    }
    assert [str(each) for each in files if "mygame" in each.read_text() or "mygame" in each.name] == []


async def test_its_own_test_passes_and_its_configuration_is_good(project: Path) -> None:
    async with program("make", "test", cwd=project, merged=True) as test:
        status, said, _ = await ended(test)
    assert status == 0 and "\nOK\n" in said and "cluster.toml: OK" in said, said


async def test_the_messages_of_its_page_are_those_of_its_server(project: Path) -> None:
    export = "-m", "gatelink", "messages", "export", "lobby.messages", "--out", "-"
    async with python(*export, cwd=project) as exporting:
        assert await ended(exporting) == (0, (project / "web" / "messages.json").read_text(), "")
    async with python("-m", "gatelink", "messages", "typescript", "--out", "-", cwd=project / "web") as writing:
        assert await ended(writing) == (0, (project / "web" / "messages.ts").read_text(), "")


async def test_its_server_runs_with_its_page_and_its_robots_find_nothing_wrong(project: Path) -> None:
    command = "-m", "gatelink", "serve", "lobby.server:server", "--page", "web", "--page-at", "http://127.0.0.1:0"
    async with python(*command, cwd=project, environment=WIDE, merged=True) as server:
        address = re.search(r"tcp://[0-9.:]+", await line(server, "started"))
        page = re.search(r"page='(http://[0-9.:]+/)'", await line(server, "ready"))
        assert address is not None and page is not None and server.stdout is not None
        reading = asyncio.create_task(server.stdout.read())  # so that it is never full
        async with python(*ROBOTS, "--address", address[0], cwd=project, merged=True) as robots:
            status, said, _ = await ended(robots)
        assert status == 0 and " say " in said, said
        assert await fetched(f"{page[1]}gatelink.json") == b"{}"
        assert await fetched(f"{page[1]}page.js") == (project / "web" / "page.js").read_bytes()
        server.terminate()
        assert "error" not in (await reading).decode()
        assert await server.wait() == 0


async def test_its_cluster_runs_and_its_robots_log_in_there(project: Path) -> None:
    command = "-m", "gatelink", "up", "cluster.toml", "--dev"
    async with python(*command, cwd=project, environment=WIDE, merged=True) as cluster:
        login = re.search(r"listen='(http://[0-9.:]+)'", await Up(cluster).line("login ", "started"))
        assert login is not None and cluster.stdout is not None
        reading = asyncio.create_task(cluster.stdout.read())
        async with LoginClient(login[1]) as client:
            while not await client.servers():  # noqa: ASYNC110 - nothing tells a stranger when it has registered
                await asyncio.sleep(0.05)
        async with python(*ROBOTS, "--login", login[1], cwd=project, merged=True) as robots:
            status, said, _ = await ended(robots)
        assert status == 0 and " say " in said, said
        cluster.terminate()
        await reading
        assert await cluster.wait() == 0


def test_the_tutorial_shows_what_is_in_the_project(tmp_path: Path) -> None:
    project = tmp_path / "mygame"
    new(project)
    shown = list(tutorial.pieces())
    assert len(shown) == 5
    for name, text in shown:
        assert text in (project / name).read_text(), f"{name} has other lines:\n{text}"


async def test_the_tutorial_s_message_of_your_own_is_answered(tmp_path: Path) -> None:
    project = made(tmp_path / "mygame")
    tutorial.change(project)
    test = project / "test_mygame.py"
    test.write_text(
        test.read_text()
        .replace("import Said, Say", "import Roll, Said")
        .replace('Say("hello")', "Roll()")
        .replace("assertEqual([await heard.get(), await heard.get()]", "assertIn(await heard.get()")
        .replace('[(1, "hello")] * 2', "[(1, f'throws a {n}') for n in range(1, 7)]")
    )
    async with program("make", "test", cwd=project, merged=True) as running:
        status, said, _ = await ended(running)
    assert status == 0 and "\nOK\n" in said, said
