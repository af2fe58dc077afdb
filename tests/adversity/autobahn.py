"""The Autobahn suite against our WebSocket framing: 517 cases of RFC 6455, played by an independent client.

    python -m tests.adversity.autobahn PYTHON2 [--cases 1.* 2.*]

PYTHON2 is a Python 2.7 with virtualenv, because the suite, autobahntestsuite on PyPI, is for Python 2 alone.

The suite wants each message echoed as one message, text too. gatelink's stream has no text and no borders of messages,
so the echo here adds both to the stream and the transport that a listener has. All else is what runs in a server.

Exit status: 0 every case passed or does not apply, 1 a case failed, 2 the suite could not run.
"""

import argparse
import asyncio
import codecs
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from gatelink import _native
from gatelink.net.connection import Connection
from gatelink.net.websocket import WebSocketTransport, accept_key
from gatelink.session.states import ConnectionState
from gatelink.wire.websocket import Status, WebSocketError, WebSocketStream

SUITE = "autobahntestsuite==25.10.1"
MAX_MESSAGE = 64 * 1_048_576  # bytes; the suite's largest message has 16 MiB
DEADLINE = 1_800.0  # s, for all cases
TEXT, BINARY = 1, 2

SECTIONS = {
    "1": "messages of every length",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes that are not defined",
    "5": "fragments",
    "6": "text and its UTF-8",
    "7": "closing",
    "9": "messages up to 16 MiB, whole and in fragments",
    "10": "a message in many writes",
    "12": "compression",
    "13": "compression with options",
}
NO_COMPRESSION = "compression is not agreed on: frames compress themselves"
NOT_APPLICABLE = {"12": NO_COMPRESSION, "13": NO_COMPRESSION}
"""Sections that the suite calls unimplemented, each with the reason."""

ONE_PONG = "of many pings in one read only the last is answered, as section 5.5.3 of RFC 6455 allows"
PERMITTED = {"2.10": ONE_PONG, "2.11": ONE_PONG}
"""Cases that the suite calls failed although the RFC allows what we do, each with the reason."""


class EchoStream(WebSocketStream):
    """The stream with text and with borders of messages. messages: the whole ones that came, as (opcode, payload)."""

    __slots__ = ("_decoder", "_kind", "_parts", "messages")

    def __init__(self) -> None:
        super().__init__(MAX_MESSAGE)
        self.messages: list[tuple[int, bytes]] = []
        self._kind = BINARY
        self._parts: list[bytes] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> bytes:
        before = len(self.messages), len(self._parts)
        payload = super().feed(data)
        if (
            payload and self.error is None and before == (len(self.messages), len(self._parts))
        ):  # the stream's short path
            self.messages.append((BINARY, payload))
        return payload or bytes(bool(self.messages))  # an empty message is echoed, too

    def _check_start(self, first: int, opcode: int, is_masked: bool, size: int) -> None:
        super()._check_start(first, BINARY if opcode == TEXT else opcode, is_masked, size)
        if opcode in (TEXT, BINARY):
            self._kind = opcode

    def _whole_messages(self, data: bytes, at: int, payloads: list[bytes]) -> int:
        whole: list[bytes] = []
        pure = _native.pure["whole_messages"]  # its twin in the compiled core joins the payloads
        end: int
        end, _ = pure(data, at, self.max_message, whole)
        self.messages += [(BINARY, each) for each in whole]
        payloads += whole
        return end

    def _header(self, data: bytes, at: int) -> int:
        end = super()._header(data, at)
        if end and self._opcode < 8 and not self._left:
            self._ends_part(b"")
        return end

    def _take(self, part: bytes, payloads: list[bytes]) -> None:
        super()._take(part, payloads)
        if self._opcode < 8:
            self._ends_part(payloads[-1])

    def _ends_part(self, part: bytes) -> None:
        """Note a part of a message, and the message if it is whole now. Raises WebSocketError."""
        is_whole = not self._left and not self._is_open
        if self._kind == TEXT:
            try:
                self._decoder.decode(part, is_whole)
            except UnicodeDecodeError:
                raise WebSocketError("text that is not UTF-8", Status.NOT_UTF8) from None
        self._parts.append(part)
        if is_whole:
            self.messages.append((self._kind, b"".join(self._parts)))
            self._parts.clear()

    def wrap(self, data: bytes) -> bytes:
        return data  # `Echo` writes whole frames

    def whole(self, opcode: int, payload: bytes) -> bytes:
        return self._frame(opcode, payload)


class Echo(asyncio.Protocol):
    """One connection: its upgrade, then a transport as a listener has it, whose connection this is."""

    def __init__(self) -> None:
        self.head = b""
        self.state = ConnectionState.BOUND
        self.buffered = 0
        self.receiver = SimpleNamespace(broken=self.broken)
        self.carrier: WebSocketTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read the request; what stands behind it goes to the WebSocket."""
        self.head += data
        head, found, rest = self.head.partition(b"\r\n\r\n")
        if not found:
            return
        key = re.search(rb"(?i)sec-websocket-key: *([^\r]+)", head + b"\r")
        assert key is not None, "a request without a key"
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(key[1].strip())
        )
        self.stream = EchoStream()
        clock = asyncio.get_running_loop().time
        self.websocket = WebSocketTransport(self.transport, cast(Connection, self), self.stream, clock, is_tls=False)
        self.websocket.set_protocol(Payloads(self))
        if rest:
            self.websocket.data_received(rest)

    def echo(self) -> None:
        for opcode, payload in self.stream.messages:
            self.websocket.write(self.stream.whole(opcode, payload))
        self.stream.messages.clear()

    def broken(self, error: WebSocketError) -> None:
        self.echo()
        self.websocket.write_eof()


class Payloads(asyncio.Protocol):
    """What stands above the WebSocket's transport: it echoes."""

    def __init__(self, echo: Echo) -> None:
        self.echo = echo

    def data_received(self, data: bytes) -> None:
        if self.echo.stream.pong:  # a session's answers leave at the end of the loop's turn, behind the pong
            asyncio.get_running_loop().call_soon(self.echo.echo)
        else:
            self.echo.echo()


def serve_and_play(python2: Path, cases: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Play the cases; return the suite's report, a case each. Raises OSError, or CalledProcessError if pip fails."""
    print(f"making a Python 2 environment with {SUITE}", file=sys.stderr, flush=True)
    subprocess.run([python2, "-m", "virtualenv", "-q", "suite"], check=True, cwd=folder)
    subprocess.run(["suite/bin/pip", "install", "-qqq", SUITE], check=True, cwd=folder)
    return asyncio.run(play(cases, folder))


async def play(cases: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    spec = {
        "outdir": "report",
        "servers": [{"agent": "gatelink", "url": f"ws://127.0.0.1:{port}", "options": {"version": 18}}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    suite = await asyncio.create_subprocess_exec(
        "suite/bin/wstest", "-m", "fuzzingclient", "-s", "spec.json", cwd=folder, stdout=sys.stderr
    )
    try:
        async with asyncio.timeout(DEADLINE):
            await suite.wait()
    finally:
        if suite.returncode is None:
            suite.kill()
        server.close()
    report: dict[str, dict[str, dict[str, Any]]] = json.loads((folder / "report/index.json").read_text())
    return report["gatelink"]


def table(results: dict[str, str]) -> str:
    """The results as a table in Markdown, a row for each section of the suite."""
    rows = ["| section | what | cases | passed | why not all |", "| --- | --- | ---: | ---: | --- |"]
    for section, what in SECTIONS.items():
        played = {case: result for case, result in results.items() if section_of(case) == section}
        if not played:
            continue
        missed = [case for case, result in played.items() if result != "OK"]
        why = {NOT_APPLICABLE.get(section) or PERMITTED.get(case) or f"{case} failed" for case in missed}
        rows.append(f"| {section} | {what} | {len(played)} | {len(played) - len(missed)} | {'; '.join(sorted(why))} |")
    return "\n".join(rows)


def section_of(case: str) -> str:
    return case.partition(".")[0]


def result_of(case: dict[str, Any]) -> str:
    """OK, or what the suite says of the messages and of the close."""
    said = [case["behavior"], case["behaviorClose"]]
    return "OK" if {"OK", "INFORMATIONAL"}.issuperset(said) else ", close ".join(said)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.adversity.autobahn",
        description="Play the Autobahn suite against our WebSocket framing, and print its report as a table.",
        epilog="Exit status: 0 every case passed or is excused, 1 a case failed, 2 the suite could not run.",
    )
    parser.add_argument("python2", type=Path, help="a Python 2.7 with virtualenv")
    parser.add_argument("--cases", nargs="+", default=["*"], help="as the suite writes them, like 5.* (all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatelink-autobahn-") as folder:
        try:
            report = serve_and_play(options.python2, options.cases, Path(folder))
        except (OSError, TimeoutError, subprocess.CalledProcessError) as error:
            print(f"the suite could not run: {error}", file=sys.stderr)
            return 2
    results = {case: result_of(report[case]) for case in sorted(report, key=lambda each: [*map(int, each.split("."))])}
    print(table(results))
    failed = {
        case: result
        for case, result in results.items()
        if result != "OK" and case not in PERMITTED and section_of(case) not in NOT_APPLICABLE
    }
    for case, result in failed.items():
        print(f"{case}: {result}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
