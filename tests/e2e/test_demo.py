"""`make demo-chat` in small: two processes, strict robots, and an exit status that says whether all held."""

import os
import socket
from contextlib import AbstractAsyncContextManager

import pytest

from examples.demo import reserved_ports
from tests.processes import Process, ended, python


def demo(*arguments: str) -> AbstractAsyncContextManager[Process]:
    return python("-m", "examples.chat.demo", *arguments, merged=True)


def test_a_reserved_port_is_for_a_server_that_listens_there_and_for_nobody_else() -> None:
    with reserved_ports(2) as first:
        for port in (first, first + 1):
            with pytest.raises(OSError, match="Address already in use"), socket.socket() as other:
                other.bind(("127.0.0.1", port))
            for _ in range(2):  # it may also come back
                with socket.create_server(("127.0.0.1", port)) as server:
                    socket.create_connection(server.getsockname()).close()


async def test_the_demo_holds_and_says_so() -> None:
    async with demo("--count", "20", "--seconds", "4") as process:
        status, out, _ = await ended(process)
    assert status == 0, out
    assert out.endswith("Everything held.\n")
    for figure in ("sessions", "say p50", "say p99", "breaks with a gap", "lines missed over breaks", "errors"):
        assert figure in out


async def test_the_demo_fails_when_its_robots_do() -> None:
    async with demo("--count", "1", "--seconds", "1", "--report", "no/where.html") as process:
        status, out, _ = await ended(process)
    assert status == 1
    assert out.endswith("It did not hold: the robots' exit status is 78.\n")


async def test_a_demo_that_is_asked_to_end_leaves_no_process() -> None:
    async with demo("--count", "5", "--seconds", "60") as process:
        assert process.stdout is not None
        first = await process.stdout.readline()
        assert first.startswith(b"chat server at tcp://127.0.0.1:"), first
        server = int(first.split()[-1])
        os.kill(server, 0)
        process.terminate()
        status, _, _ = await ended(process)  # ends when the last of them has closed its output
    assert status == 128 + 15
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


async def test_the_chat_server_does_not_start_without_a_secret_that_nobody_can_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CHAT_SECRET", raising=False)
    for given in ({}, {"CHAT_SECRET": "short"}):
        async with python("-m", "gatelink", "serve", "examples.chat.server:server", environment=given) as process:
            status, _, err = await ended(process)
        assert status == 78
        assert f"CHAT_SECRET has {len(given.get('CHAT_SECRET', ''))} characters" in err and "export CHAT_SECRET=" in err
