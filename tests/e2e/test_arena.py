"""`make demo` in small: a cluster of processes, strict robots over HTTP and gateways, and a verdict."""

import json
import re
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.arena.ledger import Verdict, Visit
from tests.processes import environment_of

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 240  # s: eight processes start and end, and the machine has other work

PATIENT = """
import sys
from examples.arena import demo
demo.BACK_SOON = dict.fromkeys(demo.BACK_SOON, 25.0)  # s; what a slow machine may take too
sys.exit(demo.main())
"""


def play(*arguments: str, stay: Callable[[str], None] | None = None) -> str:
    """What the demo said. It must have held. stay: called with the page's address while it stays; then comes Ctrl-C."""
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    environment = environment_of()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = ""
        try:
            if stay is not None and process.stdout is not None:
                while "until Ctrl-C" not in said and (line := process.stdout.readline()):
                    said += line
                try:
                    stay(address(said))
                finally:
                    process.send_signal(signal.SIGINT)  # or it would stay
            out, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its own children
            out, _ = process.communicate()
    out = said + out
    assert process.returncode == 0, out
    assert out.endswith("Everything held.\n")
    return out


def address(said: str) -> str:
    found = re.search(r"play along at (\S+)", said)
    assert found is not None, said
    return found[1]


def figure(pattern: str, out: str) -> int:
    found = re.search(pattern, out)
    assert found is not None, out
    return int(found[1].replace(",", ""))


@pytest.mark.timeout(LIMIT + 60)
def test_the_arena_holds_as_a_cluster_and_says_so() -> None:
    out = play("-m", "examples.arena.demo", "--count", "30", "--seconds", "5", "--stay", stay=a_guest_may_come)
    assert "verdict: lost 0, twice or out of order 0, errors 0" in out
    sent = figure(r"steps and words ([\d,]+)", out)
    assert sent == figure(r"told to their own player ([\d,]+)", out) > 30
    assert figure(r"told to their own player [\d,]+, to others ([\d,]+)", out) > sent
    assert figure(r"logins ([\d,]+) over HTTP", out) >= 30


@pytest.mark.timeout(LIMIT + 60)
def test_only_what_a_killed_process_held_is_lost_and_all_are_back(tmp_path: Path) -> None:
    out = play("-c", PATIENT, "--count", "30", "--seconds", "10", "--kill", "--report", str(tmp_path / "page.html"))
    assert "verdict: lost 0, twice or out of order 0, errors 0" in out
    for kind in ("room", "lobby", "nats-server", "gateway"):
        assert f"killed a {kind}: " in out
    assert figure(r"killed a room: (\d+) robots", out) > 0
    assert figure(r"killed a gateway: (\d+) robots", out) > 0
    assert figure(r"killed a lobby: (\d+) robots", out) == 0
    assert figure(r"killed a nats-server: (\d+) robots", out) == 0
    page = (tmp_path / "page.html").read_text()
    assert "everything held" in page and page.count('<line class="mark"') >= 4
    for kind in ("room", "lobby", "nats-server", "gateway"):
        assert f"killed a {kind}: " in page


def a_guest_may_come(page: str) -> None:
    """The page is served; a script of it may log in as a guest and gets a gateway's address for browsers."""
    with urllib.request.urlopen(f"{page}gatelink.json", timeout=20) as answer:
        login = json.load(answer)["login"]
    body = json.dumps({"device_id": secrets.token_hex(16)}).encode()
    headers = {"Content-Type": "application/json", "Origin": page.rstrip("/")}
    with urllib.request.urlopen(urllib.request.Request(f"{login}/v1/guest", body, headers), timeout=20) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] in (page.rstrip("/"), "*")
        assert json.load(answer)["addresses"]["ws"].startswith("ws://127.0.0.1:")


def test_the_arena_in_one_process_has_the_same_handlers() -> None:
    program = """
from examples.arena import services, single
ids = {id for service in (services.lobby, services.room) for id in service.handlers.routes}
assert ids == set(single.server.handlers.routes) and len(ids) > 5, ids
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=LIMIT)


def test_the_ledger_finds_every_wrong_order() -> None:
    def errors(heard: list[tuple[int, int]], sent: int = 0, died: bool = False) -> dict[str, int]:
        verdict = Verdict()
        visit = Visit(7, 1, verdict)
        for _ in range(sent):
            visit.next_number()
        for uid, number in heard:
            visit.hear(uid, number)
        visit.end(died)
        return verdict.errors

    assert errors([(7, 1), (7, 2), (8, 5), (8, 6), (8, 1), (8, 2)], sent=2) == {}
    assert errors([(7, 1), (7, 1)], sent=1) == {"own step twice or out of order": 1}
    assert errors([(7, 2), (7, 1)], sent=2) == {"own step missing": 1, "own step twice or out of order": 1}
    assert errors([(7, 1)], sent=3) == {"lost": 2}
    assert errors([(7, 1)], sent=3, died=True) == {}
    assert errors([(8, 5), (8, 7)]) == {"another's step missing": 1}
    assert errors([(8, 5), (8, 5)]) == {"another's step twice or out of order": 1}
    assert errors([(8, 5), (8, 4)]) == {"another's step twice or out of order": 1}


def test_the_arena_has_a_readme_that_names_its_files() -> None:
    folder = Path(__file__).resolve().parents[2] / "examples" / "arena"
    text = (folder / "README.md").read_text()
    for file in folder.glob("*.py"):
        if file.name != "__init__.py":
            assert f"[{file.name}]({file.name})" in text
