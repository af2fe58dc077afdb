"""docs/tutorial.md: after each of its steps the game does what the page says, by the page's own code and commands."""

import ast
import asyncio
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from examples.demo import reserved_ports
from gatelink import ServerKey
from tests.processes import ROOT, Process, ended, program

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```(?:python|toml)\n# (\w+\.(?:py|toml))(?:, ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    (.*)$", re.MULTILINE)
PORTS = {"7000": 0, "8080": 2, "9100": 3}
"""The page's ports, by their places in a row of free ones; the second gateway has those behind the first's."""

PATH = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"


class Step(NamedTuple):
    text: str
    blocks: list[tuple[str, str, str]]  # (file, where in it, code)
    commands: list[str]


def read(section: str) -> Step:
    prose = re.sub(r"^```.*?^```$", "", section, flags=re.MULTILINE | re.DOTALL)
    return Step(section, BLOCK.findall(section), COMMAND.findall(prose))


STEPS = {section.partition("\n")[0]: read(section) for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def changed(was: str, where: str, text: str) -> str:
    """A file after the change that the first line of a block names."""
    if where == "":
        return text
    if where == "at the end":
        return f"{was}\n{text}"
    what, _, name = where.partition(" of ")
    nodes = [node for node in ast.parse(was).body if is_called(node, name)]
    assert nodes, f"the page says {where}, and there is nothing of that name"
    first = min([nodes[0].lineno, *(each.lineno for each in getattr(nodes[0], "decorator_list", ()))])
    last = nodes[-1].end_lineno or 0
    lines = was.splitlines(keepends=True)
    if what == "more":
        return "".join([*lines[:last], "\n", *text.splitlines(keepends=True)[1:], *lines[last:]])
    assert what == "in place", f"the page says {where}"
    return "".join([*lines[: first - 1], text, *lines[last:]])


def is_called(node: ast.stmt, name: str) -> bool:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
        case ast.Assign(targets=[ast.Name(id=found)]):
            return found == name
        case ast.Import() | ast.ImportFrom():
            return name == "the imports"
    return False


class Game:
    """The game in a folder, as it is after a step of the page, at ports that are free."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        self.first_port = first_port
        self.step = ""

    def at(self, title: str) -> None:
        """Make the changes of all steps up to this one."""
        self.step = title
        files: dict[str, str] = {}
        for step, (_, blocks, _) in STEPS.items():
            for file, where, text in blocks:
                files[file] = changed(files.get(file, ""), where, text)
            if step == title:
                break
        for file, text in files.items():
            (self.folder / file).write_text(self.moved(text))

    def moved(self, text: str) -> str:
        """`text` with ports that are free."""
        return re.sub(
            r"(?<=127\.0\.0\.1[:\"])(\D{0,2})(7000|8080|9100)\b",
            lambda found: f"{found[1]}{self.first_port + PORTS[found[2]]}",
            text,
        )

    def command(self, beginning: str) -> str:
        """The newest command with that beginning, of this step or one before."""
        titles = list(STEPS)
        known = [command for title in titles[: titles.index(self.step) + 1] for command in STEPS[title].commands]
        found = [command for command in known if command.startswith(beginning)]
        assert found, f"up to {self.step!r} the page has no command {beginning!r}: {known}"
        command = self.moved(found[-1])
        if beginning == "gatelink robots" and "--login" not in command:
            command += f" --address tcp://127.0.0.1:{self.first_port}"  # the page's robots go to the default
        return command

    @asynccontextmanager
    async def running(self, command: str) -> AsyncIterator[Process]:
        environment = {"PATH": PATH, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        async with program("sh", "-c", command, cwd=self.folder, environment=environment, merged=True) as process:
            yield process

    async def run(self, beginning: str, *, more: str = "") -> tuple[int, str]:
        """(exit status, output) of a command."""
        async with self.running(self.command(beginning) + more) as process:
            status, said, _ = await ended(process)
        return status, said

    @asynccontextmanager
    async def server(self, beginning: str = "gatelink serve") -> AsyncIterator["Log"]:
        command = self.command(beginning).removesuffix(" --reload")  # which runs it in a process group of its own
        async with self.running(f"exec {command}") as process:
            log = Log(process)
            try:
                await log.line(" ready " if " up " in command else " started ")
                yield log
            finally:
                process.terminate()  # its children, too
                await log.reading


class Log:
    """What a server writes. It is read all the time, so that it never fills its pipe."""

    def __init__(self, process: Process) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self.reading = asyncio.create_task(self._read(process))

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            self._lines.put_nowait(raw.decode())
        self._lines.put_nowait("")

    async def line(self, *words: str) -> str:
        """The next line with all of these words."""
        seen = ""
        while text := await self._lines.get():
            seen += text
            if all(word in text for word in words):
                return text
        raise AssertionError(f"no line with {words} in\n{seen}")


@pytest.fixture
def game(tmp_path: Path) -> Iterator[Game]:
    with reserved_ports(5) as first_port:
        yield Game(tmp_path, first_port)


def test_every_step_of_the_page_has_code_or_commands_and_each_is_run_here() -> None:
    source = Path(__file__).read_text()
    for title, step in STEPS.items():
        assert title == "Where to go on" or (step.commands and f'game.at("{title}")' in source), title


async def test_ten_lines_send_a_cheer_back(game: Game) -> None:
    game.at("Ten lines")
    server = (game.folder / "race.py").read_text()
    assert len([line for line in server.splitlines() if line]) <= 10
    async with game.server():
        assert await game.run("python play.py") == (0, "go!\n")


async def test_all_players_in_the_room_hear_a_cheer(game: Game) -> None:
    game.at("A message and a room")
    async with game.server() as log, game.running(f"exec {game.command('python play.py 7')}") as other:
        await log.line("verified", "uid=7")
        async with game.running(f"exec {game.command('python play.py 8')}") as player:
            for each in (player, other):
                assert each.stdout is not None
                assert await each.stdout.readline() == b"8: go!\n"
                each.send_signal(signal.SIGINT)  # as the page says, with no traceback
                assert await ended(each) == (0, "", "")


async def test_the_faster_of_two_runners_wins(game: Game) -> None:
    game.at("A tick")
    async with game.server() as log, game.running(game.command("python play.py 7")) as tortoise:
        await log.line("verified", "uid=7")
        status, said = await game.run("python play.py 8")
        assert status == 0 and said.endswith("\n8 has won\n") and "8 is at " in said, said
        status, said, _ = await ended(tortoise)
        assert status == 0 and said.endswith("8 has won\n"), said


async def test_the_robots_find_nothing_wrong_and_find_a_runner_that_goes_back(game: Game) -> None:
    game.at("A robot that checks it")
    async with game.server():
        status, said = await game.run("gatelink robots", more=" --seconds 5")
        assert status == 0 and "first place" in said, said
    file = game.folder / "race.py"
    file.write_text(file.read_text().replace("+=", "-="))
    async with game.server():
        status, said = await game.run("gatelink robots", more=" --seconds 5")
        assert status == 1 and "my runner went back" in said, said


async def test_a_token_lets_its_user_in_and_nobody_else(game: Game) -> None:
    game.at("Login with tokens")
    assert await game.run("openssl") == (0, "")
    mine, others = (each for each in STEPS[game.step].commands if each.startswith("TOKEN="))
    async with game.server():
        status, said = await game.run(mine)
        assert status == 0 and said.endswith("7 has won\n"), said
        status, said = await game.run(others)
        assert status == 1 and said.startswith("no way in: "), said
        status, said = await game.run("gatelink robots", more=" --seconds 5")
        assert status == 0 and "first place" in said, said


async def test_nothing_is_lost_while_the_connection_is_cut(game: Game) -> None:
    game.at("Nothing is lost when the connection breaks")
    (game.folder / "secret").write_text("a" * 64)
    assert (await game.run("gatelink keys new"))[0] == 0
    async with game.server():
        assert await game.run("python cut.py") == (0, "each cheer once and in order: True\n")


async def test_the_same_handlers_run_in_a_cluster_that_can_be_watched(game: Game) -> None:
    game.at("Watch it")
    top, curl = game.command("gatelink top"), game.command("curl")
    game.at("A cluster")
    (game.folder / "secret").write_text("a" * 64)
    (game.folder / "server.key").touch(0o600)
    (game.folder / "server.key").write_text(f"server-key {ServerKey.generate().to_hex()}\n")
    async with game.server("gatelink up"):
        status, said = await game.run("python play.py")
        assert status == 0 and said.endswith("1000000 has won\n"), said
        status, said = await game.run("gatelink robots", more=" --seconds 5")
        assert status == 0 and "first place" in said, said
        async with game.running(f"{top} --once") as looking:
            status, said, _ = await ended(looking)
        assert status == 0 and said.count("gateway") >= 2 and "race" in said, said
        address = re.search(r"http://\S+", curl)
        assert address is not None
        with await asyncio.to_thread(urllib.request.urlopen, address[0]) as answer:
            assert f"\n{curl.split()[-1]}" in answer.read().decode()
