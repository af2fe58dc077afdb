"""Robots against a real server: what a scenario can do, what counts as an error, and the command's exit status."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.demo import reserved_ports
from gatelink import CatalogError, CloseCode, ConfigError, ServerKey, Session, SessionClosed
from gatelink.robots import LoadTest, Options, Robot, Tally, load_test
from tests.e2e.support import CATALOG, Blob, Echo, EchoServer, Note, serving, token_of, until
from tests.processes import Process, ended, program, python
from tests.support import MS

LIMIT = 30_000 * MS

SCENARIOS = '''
import asyncio
from msgspec import Struct
from gatelink import message
from gatelink.robots import Robot

@message(11_001)
class Echo(Struct):
    n: int
    text: str = ""

class Good(Robot):
    """Echoes five times, and is done."""
    async def run(self):
        await self.connect()
        for n in range(5):
            with self.measure("echo"):
                self.send(Echo(n))
                await self.expect(Echo)
            self.count("echoes")
        if self.number == 0:
            await asyncio.sleep(1)  # long enough for a second of history

class Strict(Good):
    async def run(self):
        await super().run()
        self.fail(f"saw <b>, expected & in {self.number // 2}")

class Patient(Good):
    async def run(self):
        await super().run()
        print("up", flush=True)
        await asyncio.Event().wait()
'''


class Scenario(Robot):
    """A robot of these tests' catalog."""

    catalog = CATALOG


async def run_of(
    scenario: type[Robot], server: EchoServer, count: int = 1, until: Callable[[Tally], object] | None = None
) -> Tally:
    """What robots of `scenario` counted when they were done, or when `until` came true."""
    run = LoadTest(scenario, address=str(server.endpoint), count=count, seconds=LIMIT)
    return await run.run(lambda: run.stop() if until and until(run.tally) else None)


async def test_every_robot_lives_its_scenario_in_a_session_of_its_own_that_is_closed_at_the_end() -> None:
    class Pair(Scenario):
        async def run(self) -> None:
            session = await self.connect()
            assert session.uid == self.uid == self.number + 1
            with self.measure("echo"):
                self.send(Echo(self.number))
                assert await self.expect(Echo) == Echo(self.number)

    async with serving() as server:
        tally = await run_of(Pair, server, 30)
        assert len(server.ended) == 30
    assert tally.held
    assert (tally.sent, tally.received, tally.sessions) == (30, 30, 0)
    assert tally.latencies["echo"].count == tally.latencies["connect"].count == 30


async def test_expect_skips_what_is_before_and_finds_what_came_already() -> None:
    class Picky(Scenario):
        async def run(self) -> None:
            await self.connect()
            for n in range(6):
                self.send(Echo(n))
            assert await self.expect(Echo, lambda echo: echo.n == 3) == Echo(3)
            await asyncio.sleep(20 * MS)
            assert await self.expect(Echo, lambda echo: echo.n > 4) == Echo(5)
            with pytest.raises(TimeoutError, match="no Echo as expected within 0.01 s"):
                await self.expect(Echo, timeout=0.01)

    async with serving() as server:
        assert (await run_of(Picky, server)).error_texts == {}


async def test_expect_takes_several_classes_and_a_condition_for_all_of_them() -> None:
    class Open(Scenario):
        async def run(self) -> None:
            await self.connect()
            for n in range(3):
                self.send(Echo(n))
            self.send(Blob(b"x"))
            assert await self.expect(Note, Echo) == Echo(0)
            assert await self.expect(Echo, Blob, lambda message: message != Echo(1)) == Echo(2)
            assert await self.expect(Note, Echo, Blob, where=lambda message: True) == Blob(b"x")
            with pytest.raises(TimeoutError, match="no Note or Echo as expected"):
                await self.expect(Note, Echo, timeout=0.01)
            for wrong in ((), (lambda message: True, Echo)):
                with pytest.raises(TypeError, match="one or more classes"):
                    await self.expect(*wrong)

    async with serving() as server:
        assert (await run_of(Open, server)).error_texts == {}


async def test_connect_passes_on_keys_slots_resume_and_tokens_and_the_run_s_own_are_the_default() -> None:
    key = ServerKey.generate()

    class Sealed(Scenario):
        async def run(self) -> None:
            session = await self.connect(resume=True, slot=2, uid=70, token=token_of(70).decode())
            assert session.ticket is not None and (session.slot, session.uid) == (2, 70)
            there.append(server.sessions.of(70)[0].slot)
            await self.disconnect()
            session = await self.connect(server_key=key.public)
            assert session.ticket is None and session.uid == 1

    there: list[int] = []
    async with serving(keys=[key], sealed_only=True) as server:
        run = LoadTest(Sealed, address=str(server.endpoint), count=1, seconds=LIMIT, server_key=key.public)
        assert (await run.run()).error_texts == {} and there == [2]


async def test_robots_share_several_addresses_and_pass_over_one_where_nothing_listens() -> None:
    class Pair(Scenario):
        async def run(self) -> None:
            await self.connect()
            self.send(Echo(1))
            await self.expect(Echo)

    with reserved_ports() as port:
        nothing = f"tcp://127.0.0.1:{port}"
        async with serving() as one, serving() as two:
            places = [str(one.endpoint), nothing, str(two.endpoint)]
            assert (await LoadTest(Pair, address=places, count=6, seconds=LIMIT).run()).error_texts == {}
            assert (len(one.ended), len(two.ended)) == (2, 4)
        run = LoadTest(Pair, address=[nothing], count=1, seconds=LIMIT)
        tally = await run.run(lambda: run.stop() if run.tally.errors else None)
        assert "Connection refused" in str(tally.error_texts)


def test_a_run_has_addresses_or_a_login() -> None:
    both: Options = {"address": "tcp://127.0.0.1:1", "login": "http://127.0.0.1:1"}
    empty: Options = {"address": []}
    for wrong in (Options(), both, empty):
        with pytest.raises(ConfigError, match="either"):
            LoadTest(Scenario, count=1, seconds=1, **wrong)


async def test_a_method_named_as_a_message_handles_it_before_expect_gives_it() -> None:
    class Listening(Scenario):
        async def run(self) -> None:
            self.heard: list[int] = []
            await self.connect()
            self.send(Echo(7))
            await self.expect(Echo)
            assert self.heard == [7]

        def on_echo(self, session: Session, echo: Echo) -> None:
            self.heard.append(echo.n)

    async with serving() as server:
        assert (await run_of(Listening, server)).error_texts == {}


async def test_a_handler_that_raises_is_an_error_of_the_run() -> None:
    class Clumsy(Scenario):
        async def run(self) -> None:
            self.heard = asyncio.Event()
            await self.connect()
            self.send(Echo(1))
            await self.heard.wait()

        async def on_echo(self, session: Session, echo: Echo) -> None:
            self.heard.set()
            raise ValueError("one is wrong")

    async with serving() as server:
        (error,) = (await run_of(Clumsy, server)).error_texts
    assert error.startswith("handler of Echo: ValueError: one is wrong (test_robots.py:")


def test_a_handler_for_no_message_is_found_before_the_run() -> None:
    class Misspelt(Scenario):
        def on_ecko(self, session: Session, echo: Echo) -> None: ...

    with pytest.raises(CatalogError, match="Misspelt.on_ecko names no message"):
        LoadTest(Misspelt, address="tcp://127.0.0.1:1", count=1, seconds=1)


async def test_what_a_robot_raises_is_an_error_and_it_starts_over() -> None:
    lives = 0

    class Mortal(Scenario):
        async def run(self) -> None:
            nonlocal lives
            lives += 1
            await self.connect()
            if lives == 1:
                raise ValueError("broken")

    async with serving() as server:
        tally = await run_of(Mortal, server)
        assert [code for _, code in server.ended] == [CloseCode.NORMAL] * 2
    (error,) = tally.error_texts.values()
    assert lives == 2 and (error.count, error.robot) == (1, 0)
    assert error.text.startswith("ValueError: broken (test_robots.py:")


async def test_a_session_that_the_server_ends_is_an_error_unless_the_scenario_expects_it() -> None:
    class Unaware(Scenario):
        async def run(self) -> None:
            session = await self.connect()
            self.send(Note(1))
            await session.wait_closed()

    class Aware(Scenario):
        async def run(self) -> None:
            await self.connect()
            self.send(Note(1))
            with pytest.raises(SessionClosed):
                await self.expect(Echo)
            await self.disconnect()

    async with serving() as server:
        server.instead(Note)(lambda session, message: session.kick())
        unaware = await run_of(Unaware, server, 3)
        aware = await run_of(Aware, server, 3)
    assert [error.count for error in unaware.error_texts.values()] == [3]
    assert aware.held


async def test_a_polite_end_delivers_what_is_queued_and_an_abrupt_one_drops_it() -> None:
    class Leaving(Scenario):
        async def run(self) -> None:
            for n, abruptly in enumerate((False, True)):
                await self.connect()
                self.send(Note(n))
                await self.disconnect(abruptly=abruptly)
                assert self.session is None

    async with serving() as server:
        assert (await run_of(Leaving, server)).error_texts == {}
        assert server.notes == [(1, 0)]


async def test_a_robot_that_does_not_end_is_an_error_and_does_not_hold_up_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_test, "ENDING", 0.05)
    let_go = asyncio.Event()

    class Stubborn(Scenario):
        async def run(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await let_go.wait()

    run = LoadTest(Stubborn, address="tcp://127.0.0.1:1", count=2, seconds=0.05)
    tally = await run.run()
    assert [error.count for error in tally.error_texts.values()] == [2]
    let_go.set()


def test_robots_of_one_seed_and_number_draw_the_same() -> None:
    def draws(seed: int) -> list[float]:
        run = LoadTest(Scenario, address="tcp://127.0.0.1:1", count=3, seconds=1, seed=seed)
        return [robot.random.random() for robot in run.robots]

    assert draws(1) == draws(1) != draws(2)
    assert len(set(draws(1))) == 3


# -- the chat's robots --


async def test_the_chats_robots_find_a_server_that_repeats_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    if "CHAT_SECRET" not in os.environ:
        monkeypatch.setenv("CHAT_SECRET", "only for this test, and long enough")
    from examples.chat.messages import JoinedRoom, JoinRoom, Line, Speak
    from examples.chat.robots import Chatter, tokens

    async with EchoServer(tokens=tokens) as server:
        server.handlers.catalog = server.context.catalog = Chatter.catalog
        server.on(JoinRoom)(lambda session, message: session.send(JoinedRoom(message.room, 1)))

        @server.on(Speak)
        def say(session: Session, message: Speak) -> None:
            session.send(Line("amber", 1, session.uid, message.text))

        tally = await run_of(Chatter, server, 5, until=lambda tally: tally.errors)
        await server.stop(0)
    assert not tally.held
    assert all(re.match(r"line 1 of room amber(;| again)", text) for text in tally.error_texts), tally.error_texts


# -- the command --


def robots(*arguments: str, cwd: Path) -> AbstractAsyncContextManager[Process]:
    return python("-m", "gatelink", "robots", *arguments, cwd=cwd)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with the module `load`."""
    (tmp_path / "load.py").write_text(SCENARIOS)
    return tmp_path


async def test_a_run_that_holds_prints_its_summary_and_exits_with_0(here: Path) -> None:
    async with serving() as server:
        address = str(server.endpoint)
        async with robots("load:Good", "--address", address, "--count", "4", "--ramp", "0", cwd=here) as process:
            status, out, err = await ended(process)
    assert (status, err) == (0, "")
    figures = {name.strip(): figure.strip() for name, figure in re.findall(r"│([^│]+)│([^│]+)│", out)}
    assert (figures["echoes"], figures["errors"]) == ("20", "0")
    assert figures["echo p99"].endswith(" ms")


async def test_an_error_that_a_robot_reports_is_printed_and_the_exit_status_is_1(here: Path) -> None:
    async with serving() as server:
        address = str(server.endpoint)
        arguments = ("load:Strict", "--address", address, "--count", "4", "--ramp", "0", "--report", "out.html")
        async with robots(*arguments, cwd=here) as process:
            status, out, _ = await ended(process)
    assert status == 1
    assert re.search(r"2 x saw <b>, expected & in 1 \(first: robot [23], after", out), out
    page = (here / "out.html").read_text()
    assert "4 errors." in page and "saw &lt;b&gt;, expected &amp; in 1" in page


async def test_the_report_is_one_page_with_its_plots_and_nothing_from_elsewhere(here: Path) -> None:
    async with serving() as server:
        address = str(server.endpoint)
        arguments = ("load:Good", "--address", address, "--count", "4", "--ramp", "0", "--report", "out.html")
        async with robots(*arguments, cwd=here) as process:
            assert (await ended(process))[0] == 0
    page = (here / "out.html").read_text()
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page)]
    labels = [plot.attrib["aria-label"] for plot in plots]
    for subject in ("Throughput", "Latency of connect", "Latency of echo", "Sessions", "Errors"):
        assert any(label.startswith(subject) for label in labels)
    assert all(plot.findall("polyline") for plot in plots)
    assert not re.search(r"<script|<link|<img|src=|url\(|@import|https?://", page)
    assert "load:Good" in page and address in page


async def test_a_bound_that_is_not_kept_fails_the_run_and_a_report_can_stand_beside_an_earlier_one(here: Path) -> None:
    async with serving() as server:
        common = ("load:Good", "--address", str(server.endpoint), "--count", "4", "--ramp", "0")
        kept = ("--fail-over", "longest=60s", "--report", "one.html")
        async with robots(*common, *kept, cwd=here) as process:
            status, out, _ = await ended(process)
        assert status == 0 and "all robots were done" in out
        broken = ("--fail-over", "echo.p99=0us", "--fail-over", "p50=60s")
        pages = ("--report", "two.html", "--beside", "one.html")
        async with robots(*common, *broken, *pages, cwd=here) as process:
            status, out, _ = await ended(process)
    assert status == 1 and "over echo.p99=0us: p99 of echo is " in out and "over p50" not in out
    page = (here / "two.html").read_text()
    assert "1 bound not kept." in page and "Latency of echo, earlier" in page and "all robots were done" in page


async def test_json_is_all_there_is_on_standard_output(here: Path) -> None:
    async with serving() as server:
        arguments = ("load:Good", "--address", str(server.endpoint), "--count", "2", "--ramp", "0", "--json")
        async with robots(*arguments, cwd=here) as process:
            status, out, err = await ended(process)
    summary = json.loads(out)
    assert status == 0 and "echoes" in err
    assert summary["held"] and (summary["sent"], summary["received"]) == (10, 10)
    assert summary["latencies"]["echo"]["count"] == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_a_run_early_with_its_summary(number: signal.Signals, here: Path) -> None:
    async with serving() as server:
        arguments = ("load:Patient", "--address", str(server.endpoint), "--count", "1", "--seconds", "3600")
        async with robots(*arguments, cwd=here) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            process.send_signal(number)
            status, out, err = await ended(process)
        assert [code for _, code in server.ended] == [CloseCode.NORMAL]
    assert (status, err) == (0, "") and "whole run" in out


async def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed(here: Path) -> None:
    async with serving() as server:
        arguments = ("load:Good", "--address", str(server.endpoint), "--count", "1", "--seconds", "60")
        async with program("nohup", sys.executable, "-m", "gatelink", "robots", *arguments, cwd=here) as process:
            await until(lambda: server.stats.verified)
            process.send_signal(signal.SIGHUP)
            status, out, _ = await ended(process)
    assert status == 0 and "all robots were done" in out


STUBBORN = """
import asyncio
from gatelink.robots import load_test
from load import Good

load_test.ENDING = 0.2

class Stubborn(Good):
    async def run(self):
        await self.connect()
        print("up", flush=True)
        while True:
            try:
                await asyncio.sleep(1_000)
            except BaseException:
                pass
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, None], ids=str)
async def test_a_robot_that_does_not_end_holds_up_neither_the_report_nor_the_end(
    how: signal.Signals | None, here: Path
) -> None:
    (here / "stubborn.py").write_text(STUBBORN)
    seconds = "3" if how is None else "3600"
    arguments = ("stubborn:Stubborn", "--count", "1", "--seconds", seconds, "--report", "out.html")
    async with serving() as server:
        async with robots(*arguments, "--address", str(server.endpoint), cwd=here) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            if how is not None:
                process.send_signal(how)
            status, out, err = await ended(process)
    assert status == 1 and "did not end within 0.2 s of the end of the run" in out and "whole run" in out
    assert "the process ends although this has not ended" in err and "_live_one" in err
    assert "did not end within" in (here / "out.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("load:Bad",), "module load has no Bad"),
        (("load:Echo",), "load:Echo is a class, not a subclass of Robot; it has load:Good, "),
        (("lode:Good",), "no module 'lode'"),
        (("load:Good", "--address", "127.0.0.1:7000"), "not an endpoint: '127.0.0.1:7000'"),
        (("load:Good", "--report", "no/where.html"), "--report no/where.html: there is no directory"),
        (("load:Good", "--fail-over", "p99=50"), "'p99=50' is no bound; write a figure"),
        (("load:Good", "--beside", "old.html"), "--beside old.html needs --report FILE.html"),
        (("load:Good", "--report", "a.html", "--beside", "old.html"), "old.html can't be read as a report of robots"),
        (("load:Good", "--count", "0"), "Invalid value for '--count'"),
    ],
)
async def test_what_cannot_be_run_is_said_and_the_exit_status_says_so(
    arguments: tuple[str, ...], says: str, here: Path
) -> None:
    async with robots(*arguments, cwd=here) as process:
        status, out, err = await ended(process)
    wrong_line = 2  # of any program that is called wrongly; nothing of gatelink has run
    assert (status, out) == (wrong_line if says.startswith("Invalid value") else 78, "")
    assert says in err and "Traceback" not in err


async def test_nobody_listening_is_an_error_of_the_run(here: Path) -> None:
    with reserved_ports() as port:
        address = f"tcp://127.0.0.1:{port}"
        arguments = ("load:Good", "--address", address, "--count", "3", "--ramp", "0", "--seconds", "3")
        async with robots(*arguments, cwd=here) as process:
            status, out, _ = await ended(process)
    assert status == 1 and re.search(rf"[1-9]\d* x ConnectError: {address}: Connection refused", out), out


@pytest.mark.parametrize("kind", ["address", "login"])
async def test_a_run_in_which_no_robot_was_connected_did_not_hold(kind: str) -> None:
    class Connects(Scenario):
        async def run(self) -> None:
            await self.connect()

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        options = Options(login=f"http://{where}") if kind == "login" else Options(address=f"tcp://{where}")
        tally = await LoadTest(Connects, count=2, seconds=300 * MS, **options).run()
    assert (tally.errors, tally.held) == (2, False)
    [text] = tally.error_texts
    assert text == f"no robot had a connection when the run ended, at {'http' if kind == 'login' else 'tcp'}://{where}"


async def test_a_run_without_a_login_service_says_where_it_should_be_and_what_the_last_attempt_met(here: Path) -> None:
    with reserved_ports() as port:
        url = f"http://127.0.0.1:{port}"
        arguments = ("load:Good", "--login", url, "--count", "3", "--ramp", "0", "--seconds", "5")
        async with robots(*arguments, cwd=here) as process:
            status, out, _ = await ended(process)
    words = f"3 x no robot had a connection when the run ended, at {url}: LoginFailed: POST {url}/v1/guest: no answer: "
    assert status == 1 and words in out and "; is the login service running there?" in out


async def test_help_says_what_a_scenario_is_and_every_exit_status(here: Path) -> None:
    async with robots("--help", cwd=here) as process:
        status, out, _ = await ended(process)
    text = " ".join(out.split())
    assert status == 0
    for words in ("MODULE:SCENARIO", "gatelink.robots.Robot", "Exit status: 0", "--report", "docs/robots.md"):
        assert words in text
