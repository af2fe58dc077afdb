"""A driver that misbehaves gets a clear verdict, in bounded time and memory; nothing of it stays."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gatelink.conformance import run as runs
from gatelink.conformance.contract import MAX_LINE, Send
from gatelink.conformance.driver import MAX_UNREAD, Driver, DriverFailed
from gatelink.conformance.report import Report
from tests.support import MS

READY = """
import json, sys, time
def say(**event): print(json.dumps(event), flush=True)
say(event="ready", sdk="odd", can=["tcp"])
"""


def odd(script: str, *, ready: bool = True) -> list[str]:
    """The command of a driver that runs `script`."""
    return [sys.executable, "-S", "-c", (READY if ready else "import sys, time\n") + script]


async def verdict(script: str, *steps: str, patience: float = 20_000 * MS) -> Report:
    """A run of these steps, the first login by default, with that driver."""
    return await runs.run(odd(script), runs.select(steps or ["first-login"]), patience=patience)


@pytest.mark.parametrize(
    "script, words",
    [
        ("print('hello', flush=True); time.sleep(60)", "wrote no event: b'hello"),
        ("print('x' * 2_000_000, flush=True); time.sleep(60)", f"a line of more than {MAX_LINE} bytes"),
        ("sys.exit('no such module')", "ended with status 1\nits standard error ends:\nno such module"),
        ("sys.stderr.write('y' * 100_000); sys.exit(3)", "ended with status 3"),
    ],
    ids=["garbage", "long line", "exits", "talks"],
)
async def test_a_driver_that_does_not_get_ready_is_refused(script: str, words: str) -> None:
    with pytest.raises(DriverFailed) as raised:
        await Driver.start(odd(script, ready=False))
    assert words in str(raised.value)
    assert len(str(raised.value)) < 3_000


async def test_a_driver_that_hangs_at_its_start_is_refused() -> None:
    with pytest.raises(DriverFailed, match="no `ready` within"):
        await Driver.start(odd("time.sleep(60)", ready=False), seconds=200 * MS)


async def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(DriverFailed, match="no-such-command"):
        await Driver.start(["no-such-command"])


async def test_a_driver_that_lacks_the_transport_is_refused() -> None:
    with pytest.raises(DriverFailed, match=r"odd can \['tcp'\], and not ws"):
        await runs.run(odd("sys.stdin.read()"), runs.select(["first-login"]), transport="ws")


@pytest.mark.parametrize(
    "script, words",
    [
        ("sys.stdin.readline(); print('oops', flush=True); time.sleep(60)", "wrote no event: b'oops"),
        ("sys.stdin.readline(); sys.exit('broken')", "ended with status 1\nits standard error ends:\nbroken"),
        ("sys.stdin.readline()\nfor _ in 'ab': say(event='connected', s=1)", "session 1 said `connected` twice"),
        ("sys.stdin.readline()\nsay(event='message', s=9, name='Count', fields=0)", "of session 9, which is not there"),
        ("sys.stdin.readline()\nsay(event='reset')", "the driver wrote `ready` or `reset` in a step"),
        ("sys.stdin.readline()\nwhile True: say(event='lost', s=1, type=1, to_server=1, to_client=1)", "floods"),
        ("sys.stdin.readline()\nwhile True: say(event='message', s=1, name='Count', fields={})", "got Count None"),
    ],
    ids=["garbage", "exits", "repeats", "strange", "resets", "floods", "floods counts"],
)
async def test_a_driver_that_misbehaves_in_a_step_fails_it(script: str, words: str) -> None:
    (found,) = (await verdict(script)).verdicts
    assert found.outcome == "failed"
    assert words in found.why


LOGIN = """
import socket, struct
command = json.loads(sys.stdin.readline())
link = socket.create_connection(("127.0.0.1", int(command["address"].rpartition(":")[2])))
def frame(flags, payload): return len(payload).to_bytes(3, "little") + bytes([flags]) + payload
link.sendall(frame(0x80, struct.pack("<BBQB", 1, 1, 3, 0)))
link.recv(99)
link.sendall(frame(0, struct.pack("<HBQH", 1, 0, int(command["uid"]), 1) + b"t"))
link.recv(9)
say(event="connected", s=command["s"])
"""


@pytest.mark.parametrize(
    "flood, words",
    [
        ("frame(0x80, bytes([8]) + bytes(8)) * 1_000", "more than 100000 frames in a session"),
        ("frame(0, struct.pack('<H', 11105)) * 1_000", "more than 100000 frames in a session"),
        ("bytes([255]) * 65_536", "the client sent: flags byte 0xff"),
    ],
    ids=["records", "messages", "garbage"],
)
async def test_a_client_that_floods_its_server_fails_the_step(flood: str, words: str) -> None:
    script = f"{LOGIN}\ntry:\n    while True: link.sendall({flood})\nexcept OSError: sys.stdin.read()"
    (found,) = (await verdict(script, "large")).verdicts
    assert found.outcome == "failed"
    assert words in found.why


async def test_after_a_failed_first_login_no_other_step_is_tried() -> None:
    report = await verdict("sys.stdin.read()", "login", patience=200 * MS)
    assert report.verdicts[0].why == f"a connection for the login: not within {200 * MS:g} s"
    assert [found.outcome for found in report.verdicts] == ["failed"] * len(report.verdicts)
    assert [found.why for found in report.verdicts[1:]] == ["not tried: first-login failed"] * (
        len(report.verdicts) - 1
    )


async def test_a_dead_driver_is_started_again_for_the_next_step_but_not_for_ever() -> None:
    report = await verdict(
        "sys.stdin.readline()\nsys.exit(7)", *["texts", "large", "many", "pieces", "forms", "stall", "kick"]
    )
    assert len(report.verdicts) == 7
    assert all("status 7" in found.why for found in report.verdicts)


async def test_a_driver_that_reads_no_commands_is_given_up() -> None:
    driver = await Driver.start(odd("time.sleep(60)"))
    try:
        for _ in range(3):
            driver.tell(Send(1, "0", 1, "x" * (MAX_UNREAD // 2)))
        assert driver.end is not None
        assert "does not read its commands" in driver.end
    finally:
        await driver.stop()


async def test_what_a_driver_started_ends_with_it(tmp_path: Path) -> None:
    """Its child holds a pipe open, which ends when the child does."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = [sys.executable, "-S", "-c", f"import time; held = open({str(fifo)!r}, 'w'); time.sleep(60)"]
    driver = await Driver.start(odd(f"import subprocess; subprocess.Popen({child!r}); sys.stdin.read()"))
    with await asyncio.to_thread(fifo.open, "rb") as pipe:  # once the child is there
        await driver.stop()
        assert await asyncio.to_thread(pipe.read) == b""
