"""Which core runs, what says so, and that constants which both have are the same."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatelink import _native, _sources, handlers
from gatelink.handling.routes import TIME_BUCKETS
from gatelink.session.outbox import Outbox
from gatelink.wire import control, envelope, frames, noise, secure
from gatelink.wire.base import BASE_IDS, ENVELOPE_IDS
from tests.twins import built, core

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "src" / "gatelink" / "native"


DESCRIBE = "from gatelink import _native; print(_native.description())"


def run(wanted: str, program: str = DESCRIBE, folder: Path | None = None) -> tuple[int, str]:
    """The exit status and output of a program with this GATELINK_NATIVE. folder: of another copy of the package."""
    where = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"} if folder is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, _native.VARIABLE: wanted, **where},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_pure_python_runs_where_it_is_asked_for_and_says_why() -> None:
    assert run("0") == (0, "pure Python (GATELINK_NATIVE=0)\n")


@built
@pytest.mark.parametrize("wanted", ["1", "auto", ""])
def test_the_compiled_core_runs_where_it_is_built(wanted: str) -> None:
    assert run(wanted) == (0, "native\n")


def test_a_core_that_is_wanted_and_not_there_is_an_error_with_the_reason() -> None:
    hidden = "import sys; sys.modules['gatelink._core'] = None; import gatelink"
    status, output = run("1", hidden)
    assert status == 1 and "GATELINK_NATIVE=1, but there is no compiled core: it was not built" in output
    status, output = run("auto", f"{hidden}; print(gatelink._native.description())")
    assert (status, output) == (0, "pure Python (it was not built (docs/native.md))\n")


def change_a_part(package: Path) -> None:
    with (package / "native" / "rates.pxi").open("a") as file:
        file.write("# changed\n")


def change_the_main_file(package: Path) -> None:
    with (package / "_core.pyx").open("a") as file:
        file.write("# changed\n")


def add_a_part(package: Path) -> None:
    (package / "native" / "more.pxi").touch()


def rename_a_part(package: Path) -> None:
    (package / "native" / "rates.pxi").rename(package / "native" / "speeds.pxi")


def build_without_a_digest(package: Path) -> None:
    (core,) = package.glob("_core.*.so")
    core.write_bytes(core.read_bytes().replace(_sources.digest(package).encode(), b"0" * 64))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, with its core."""
    without = shutil.ignore_patterns("__pycache__", "project", "_core.c")
    return Path(shutil.copytree(ROOT / "src" / "gatelink", tmp_path / "gatelink", ignore=without))


@built
@pytest.mark.parametrize(
    "change", [change_a_part, change_the_main_file, add_a_part, rename_a_part, build_without_a_digest]
)
def test_a_core_of_other_sources_is_not_used_and_the_reason_says_how_to_build_it(
    change: Callable[[Path], None], package: Path
) -> None:
    change(package)
    reason = f"it was built from other sources than those in {package}; build it again: GATELINK_NATIVE=1 "
    status, output = run("1", folder=package.parent)
    assert status == 1 and f"GATELINK_NATIVE=1, but there is no compiled core: {reason}" in output
    assert f"{sys.executable} -m pip install -e " in output
    status, output = run("auto", folder=package.parent)
    assert status == 0 and output.startswith(f"pure Python ({reason}")
    assert run("0", folder=package.parent) == (0, "pure Python (GATELINK_NATIVE=0)\n")


@built
def test_a_core_that_cannot_be_compared_with_its_sources_is_not_used_and_the_reason_names_the_file(
    package: Path,
) -> None:
    """A link to itself can't be read, not even by root."""
    part = package / "native" / "rates.pxi"
    part.unlink()
    part.symlink_to(part.name)
    reason = "it can't be compared with its sources: "
    status, output = run("auto", folder=package.parent)
    assert status == 0 and output.startswith(f"pure Python ({reason}") and str(part) in output
    status, output = run("1", folder=package.parent)
    assert status == 1 and f"GATELINK_NATIVE=1, but there is no compiled core: {reason}" in output


@built
def test_hidden_files_beside_the_sources_are_no_sources(package: Path) -> None:
    """Emacs puts a link that leads nowhere beside a file with changes; macOS puts a copy of its attributes."""
    (package / "native" / ".#rates.pxi").symlink_to("user@host.1:1")
    (package / "native" / "._rates.pxi").write_text("attributes")
    assert run("1", folder=package.parent) == (0, "native\n")


@built
def test_a_core_without_its_sources_is_used(package: Path) -> None:
    """As where a wheel was installed."""
    assert run("1", folder=package.parent) == (0, "native\n")
    shutil.rmtree(package / "native")
    (package / "_core.pyx").unlink()
    assert run("1", folder=package.parent) == (0, "native\n")


def test_a_wrong_choice_is_an_error_that_names_the_right_ones() -> None:
    status, output = run("yes")
    assert status == 1 and "GATELINK_NATIVE=yes: give 0 (pure Python), 1 (the compiled core) or auto" in output


def test_the_classes_that_run_are_those_of_the_core_that_runs() -> None:
    expected = "gatelink._core" if _native.core is not None else "gatelink.session.outbox"
    assert Outbox.__module__ == expected
    assert set(_native.pure) >= {"Outbox", "SendWindow", "StraightPath", "Encoder", "Intake", "Route", "Traffic"}


def test_the_core_has_the_constants_of_pure_python() -> None:
    turn = re.compile(r"^(?:cdef double )?TURN_SECONDS = ([\d.]+)", re.MULTILINE)  # the tests patch the name itself
    (pure,) = turn.findall(Path(str(handlers.__file__)).read_text())
    assert turn.findall((NATIVE / "message_source.pxi").read_text()) == [pure]
    assert f"TIME_BUCKETS = {TIME_BUCKETS}" in (NATIVE / "routes.pxi").read_text()
    sealing = dict(re.findall(r"^DEF (\w+) = (\w+)", (NATIVE / "secure.pxi").read_text(), re.MULTILINE))
    assert {name: int(value, 0) for name, value in sealing.items()} == {
        "SEALED": frames.SEALED,
        "SEAL_TAG": noise.TAG_SIZE,
        "MIN_SEALED": secure.MIN_RECORD,
        "MAX_PLAINTEXT": secure.MAX_PLAINTEXT,
        "MAX_MESSAGE": noise.MAX_MESSAGE,
        "NONCE_SIZE": len(noise.pack_nonce(0)),
    }


def test_the_core_has_the_numbers_of_the_wire() -> None:
    ack = control.control_frame(control.Ack(0))
    numbers = {
        "CONTROL_BIT": frames.CONTROL << 24,
        "ACK_WORD": int.from_bytes(ack[: frames.HEADER_SIZE], "little"),
        "ACK_TYPE": ack[frames.HEADER_SIZE],
        "ACK_SIZE": len(ack),
        "LAST_BASE_ID": max(BASE_IDS),
        "FIRST_ENVELOPE_ID": ENVELOPE_IDS[0],
        "LAST_ENVELOPE_ID": ENVELOPE_IDS[-1],
        "POLICY_AND_KEY": len(envelope.push_frames([], [])) - len(frames.encode_frame(1, b"\0\0")),
        "POLICY_AT": (to_one := envelope.push_frames([1], [], 2, 0xFF)[frames.HEAD_SIZE :]).index(2, 3),
        "KEY_AT": to_one.index(0xFF),
        "PUSH_BODY_HEAD": envelope.PUSH_HEAD - frames.HEAD_SIZE,
    }
    expressions = dict(re.findall(r"^DEF (\w+) = (.*?) *(?:#.*)?$", (NATIVE / "wire.pxi").read_text(), re.MULTILINE))
    core_numbers: dict[str, int] = {}
    for name, expression in expressions.items():
        core_numbers[name] = sum(core_numbers.get(term) or int(term, 0) for term in expression.split(" + "))
    modules = vars(frames) | vars(envelope)
    assert core_numbers == {name: numbers.get(name, modules.get(name)) for name in core_numbers}


@built
@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.00011, 0.004, 0.5, 100.0])
def test_both_routes_count_a_call_alike(seconds: float) -> None:
    pure: Any = _native.pure["Route"]("say", print, bytes)
    compiled = core.Route("say", print, bytes)
    for route in (pure, compiled):
        route.handled(10, seconds)
        route.handled(20, seconds)
    assert [pure.buckets, pure.count, pure.bytes, pure.seconds, pure.logged] == [
        compiled.buckets,
        compiled.count,
        compiled.bytes,
        compiled.seconds,
        compiled.logged,
    ]


TAGS = """
import signal
from types import SimpleNamespace as Some
from gatelink import Handlers, _core
from gatelink.errors import ProtocolError
from gatelink.handling.routes import Route
from gatelink.wire.frames import ALL_FLAGS, FrameDecoder, encode_frame

class Requests:
    serving = {7: (1, 0)}
    def take(self, peer, frame):
        return on_take(peer)

def deliver(data, session):
    decoder = FrameDecoder(1_000)
    decoder.allowed = ALL_FLAGS
    _core.deliver(decoder, data, len(data), session, None)

def context(**more):
    wheel = Some(read_clock=lambda: 0.0, clock=lambda: 0.0)
    return Some(encoders={}, limits=Some(write_high_water=1), wheel=wheel, standstill=None, **more)

def session_of(handlers, extension=None):
    there = context(schedule_flush=lambda session: None)
    return _core.StraightPath(there, handlers, None, extension, _core.Outbox(10, 10_000))

heard = []
handlers = Handlers()
message = encode_frame(12_304, b"x")
"""
"""A session, or a player at a service, with requests that do what a test says."""

OTHER_HANDLERS = """
class Extension(_core.Intake):
    requests, window, end = Requests(), None, None

def on_take(peer):
    peer.handlers = object()

handlers.routes[12_304] = Route("message", lambda session, body: heard.append(body), bytes)
try:
    deliver(encode_frame(12_304, bytes(4), 0x10) + message, session_of(handlers, Extension(False, False)))
except AttributeError as error:
    print(heard, "dispatch" in str(error))
"""

INTERRUPTED = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background

def on_take(peer):
    raise ProtocolError("the tag is in use")

class Player(_core.PlayerPath):
    def broken(self, error):
        print("broken:", error)

def handle(player, body):
    heard.append(body)
    if len(heard) == 1:
        signal.raise_signal(signal.SIGINT)

handlers.routes[12_304] = Route("message", handle, bytes)
session = session_of(object())
players = _core.PlayerTable({}, 1_000)
link = session.forwarder = _core.LinkPath(session, players, 700, 400)
player = Player(context(), handlers, link, 1)
player.requests = Requests()
players.by_link[link] = {1: player}
for frames in (message + encode_frame(12_304, (7).to_bytes(4, "little"), 8), message):
    try:
        deliver(encode_frame(100, (1).to_bytes(8, "little") + frames), session)
    except KeyboardInterrupt:
        print("interrupted")
print(heard)
"""


@built
def test_handlers_that_a_codec_sets_in_the_middle_of_a_read_are_asked_and_an_error_if_they_are_none() -> None:
    assert run("1", TAGS + OTHER_HANDLERS) == (0, "[] True\n")


@built
def test_a_wrong_tag_ends_no_later_read_though_a_signal_interrupts_the_handlers_of_its_own() -> None:
    assert run("1", TAGS + INTERRUPTED) == (0, "interrupted\n[b'x', b'x']\n")
