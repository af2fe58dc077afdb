"""`make demo-chat`: the chat server in one process, and strict robots in another.

Exit status: 0 no errors; 1 a robot saw an error, or a process did not start, end or exit
as it should.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from examples.chat.tokens import VARIABLE
from examples.demo import DemoError, allow_files, reserved_ports

STARTING = 20.0  # s that the server may take until it accepts
ENDING = 20.0  # s that the robots may take after their time, and the server after SIGTERM
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo-chat", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=200, help="robots (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long they talk (%(default)s)"
    )
    parser.add_argument("--report", help="write a page with plots there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    try:
        allow_files(options.count)  # the robots' process inherits it
        with ExitStack() as stack:
            status = demo(stack, options.count, options.seconds, options.report)
    except DemoError as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(
        "Everything held."
        if status == 0
        else f"It did not hold: the robots' exit status is {status}."
    )
    return int(status != 0)


def demo(stack: ExitStack, count: int, seconds: float, report: str | None) -> int:
    """Run both processes, which end with `stack`.

    Returns the robots' exit status. Raises DemoError.
    """
    environment = os.environ | {VARIABLE: secrets.token_hex(32)}
    port = stack.enter_context(reserved_ports())
    address = f"tcp://127.0.0.1:{port}"
    log = stack.enter_context(tempfile.TemporaryFile(mode="w+"))
    server = start(
        stack,
        environment,
        "serve",
        "examples.chat.server:server",
        "--listen",
        address,
        log=log,
    )
    wait_listening(server, port, log)
    print(f"chat server at {address}, process {server.pid}", flush=True)

    extra = ["--report", os.path.abspath(report)] if report else []
    robots = start(
        stack, environment, "robots", "examples.chat.robots:Chatter",
        "--address", address, "--count", str(count), "--seconds", str(seconds), *extra,
    )  # fmt: skip
    # Ctrl-C ends the robots alone, with their summary
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = robots.wait(seconds + STARTING + ENDING)
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"the robots did not end within {ENDING:g} s after their {seconds:g} s"
        ) from None

    server.send_signal(signal.SIGTERM)
    try:
        ended = server.wait(ENDING)
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"the server did not stop within {ENDING:g} s of SIGTERM;{tail(log)}"
        ) from None
    if ended != 0:
        raise DemoError(f"the server's exit status is {ended}, not 0;{tail(log)}")
    return status


def start(
    stack: ExitStack,
    environment: dict[str, str],
    *arguments: str,
    log: IO[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `gatelink` with `arguments`.

    It is killed, at the latest, at the end of `stack`.

    log: the file of its output; Ctrl-C then does not reach it. Without one it has the
    terminal.
    """
    with signals_wait():
        process = subprocess.Popen(
            [sys.executable, "-m", "gatelink", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0 if log else None,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
    return process


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delay signals that end the demo until after the block.

    Inside it, a child may not be on `stack` yet.
    """
    came: list[int] = []
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    for number in handlers:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def wait_listening(server: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    """Wait until `server` accepts at `port`.

    Raises DemoError if it ends, or does not in time.
    """
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DemoError(
                f"the server ended at once, with exit status {server.returncode};"
                f"{tail(log)}"
            )
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise DemoError(
        f"the server did not listen at port {port} within {STARTING:g} s;{tail(log)}"
    )


def tail(log: IO[str]) -> str:
    """The end of the server's log, for a message."""
    log.seek(0)
    return "\n".join([" the end of its log:", *log.read().splitlines()[-20:]])


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
