"""How a process reports that it is ready, to `gatelink up` or to systemd, and what the receiver takes."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gatelink.ops import readiness
from gatelink.ops.readiness import SOCKET, receiving, tell

CHILD = "from gatelink.ops.readiness import tell; tell(connect='tcp://127.0.0.1:1 tcp://127.0.0.1:2', admin='')"


async def test_the_facts_of_a_process_come_with_its_id() -> None:
    told: asyncio.Queue[tuple[int, Mapping[str, str]]] = asyncio.Queue()
    with receiving(lambda pid, facts: told.put_nowait((pid, facts))) as path:
        assert path.startswith("@")
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, env={**os.environ, SOCKET: path})
        assert await told.get() == (child.pid, {"connect": "tcp://127.0.0.1:1 tcp://127.0.0.1:2", "admin": ""})
        assert await child.wait() == 0


async def test_only_a_ready_process_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    told: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
    with receiving(lambda pid, facts: told.put_nowait(facts)) as path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for text in (b"", b"STATUS=loading", b"\xff\xfe", b"READY=10", b"X_LOGIN=forged"):
                sender.sendto(text, path.replace("@", "\0", 1))
        monkeypatch.setenv(SOCKET, path)
        tell(login="http://127.0.0.1:8080")
        assert await told.get() == {"login": "http://127.0.0.1:8080"}
        assert told.empty()


async def test_a_flood_of_datagrams_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "AT_ONCE", 2)
    told: list[int] = []
    with receiving(lambda pid, facts: told.append(pid)) as path:
        monkeypatch.setenv(SOCKET, path)
        for _ in range(5):
            tell()
        in_turns = []
        while len(told) < 5:
            before = len(told)
            await asyncio.sleep(0)
            in_turns.append(len(told) - before)
    assert max(in_turns) == 2


def test_systemds_own_socket_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        monkeypatch.setenv(SOCKET, str(path))
        tell()
        assert receiver.recv(readiness.MAX_MESSAGE) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/no/such/socket", "@no-such-name", "/" + "x" * 200])
def test_a_process_that_nobody_waits_for_goes_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET, path)
    tell(login="x" * 1_000_000)
