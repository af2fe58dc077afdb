"""One trace on both cores, each in a process of its own: the same messages, ends, bytes and counts come of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gatelink import CloseCode, _native
from gatelink.wire.control import Ack, ControlType, control_frame
from gatelink.wire.frames import encode_control_frame
from tests.e2e.any_bytes import frames, odd, sizes
from tests.e2e.both_cores import FAULTS, KINDS, WAYS
from tests.e2e.support import Echo, frame_of
from tests.e2e.websocket import ws_frame
from tests.twins import core

pytestmark = pytest.mark.skipif(core is None, reason="the compiled core is not built here")

ROOT = Path(__file__).resolve().parents[2]
TRIES = 5
"""How often a trace may differ: where a handler is interrupted for 5 ms, its session's turn is over, and the rest is
handled later. A real difference is there every time."""

sent = st.tuples(
    st.just("bytes"),
    st.one_of(
        st.lists(frames, min_size=1, max_size=20).map(b"".join),
        st.tuples(st.lists(frames, max_size=10), odd, st.lists(frames, max_size=3)).map(
            lambda parts: b"".join([*parts[0], parts[1], *parts[2]])
        ),
    ).map(bytes.hex),
    sizes,
)
odd_acks = st.sampled_from(
    [
        control_frame(Ack(2**64 - 1)),
        encode_control_frame(bytes([ControlType.ACK]) + bytes(7)),  # a count that is cut short
        encode_control_frame(bytes([ControlType.ACK]) + bytes(9)),
        encode_control_frame(bytes([ControlType.PING]) + bytes(8)),
        control_frame(Ack(0))[:9],
    ]
)
mixed = st.tuples(
    st.just("mixed"),
    st.lists(
        st.one_of(
            frames.map(bytes.hex),
            frames.map(bytes.hex),
            st.just(frame_of(Echo(1, "later")).hex()),
            st.sampled_from([0, 0, 0, 0, -1, 1]),
            st.integers(0, 20).flatmap(lambda n: odd_acks.map(bytes.hex) if not n else st.just(0)),
        ),
        min_size=1,
        max_size=20,
    ),
    sizes,
)
"""Messages with acknowledgements before, between and behind them."""

said = st.tuples(
    st.just("say"),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0, 10, 300, 1_900, 7_000]), st.integers(0, 2), st.integers(0, 2)),
        min_size=1,
        max_size=20,
    ),
)
in_records = st.tuples(
    st.just("records"),
    st.tuples(st.lists(frames, max_size=30), st.just(b"") | odd, st.lists(frames, max_size=3)).map(
        lambda parts: b"".join([*parts[0], parts[1], *parts[2]]).hex()
    ),
    st.lists(st.integers(1, 40) | st.integers(100, 2_000), max_size=4),
    st.integers(0, 5),
    st.sampled_from(list(FAULTS)),
    st.sampled_from([0, 0, 1, 16, 30]),
)
verbs = st.sampled_from(["exit", "unroute", "table", "inject", "pause", "broadcast", "later", "raise", "full", ""])
acted = st.tuples(
    st.just("bytes"),
    st.lists(
        st.one_of(frames, st.tuples(st.integers(0, 9), verbs).map(lambda e: frame_of(Echo(*e)))),
        min_size=1,
        max_size=40,
    )
    .map(b"".join)
    .map(bytes.hex),
    sizes,
)
"""Messages whose handlers change what is around them, in the middle of a read."""

shaped = st.tuples(
    st.just("shaped"),
    st.lists(
        st.one_of(
            st.integers(0, 7), st.sampled_from([1, 5, 6, 125, 126, 127, 300, 65_535]), st.integers(0, 300)
        ).flatmap(lambda size: st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4]).map(lambda what: max(1, 8 * size + what))),
        min_size=1,
        max_size=8,
    ).filter(lambda shape: any(number >= 8 for number in shape)),
)
web = st.tuples(
    st.just("web"),
    st.tuples(
        st.lists(frames, max_size=5).map(b"".join),
        st.one_of(
            st.just(ws_frame(1, b"text")),
            st.just(ws_frame(2, b"bare", masked=False)),
            st.just(ws_frame(2, b"bare" * 40, masked=False)),
            st.just(ws_frame(2, b"bit", bits=0x40)),
            st.just(ws_frame(0, b"nothing to continue")),
            st.just(ws_frame(2, b"", fin=False) + ws_frame(2, b"")),
            st.just(ws_frame(2, b"", fin=False)),
            st.just(ws_frame(8, b"")),
            st.just(ws_frame(8, b"\x03\xe8bye") + ws_frame(2, b"late")),
            st.just(ws_frame(8, b"\x03")),
            st.just(ws_frame(8, b"\0\0")),
            st.just(ws_frame(9, bytes(125))),
            st.just(ws_frame(9, bytes(126))),
            st.just(ws_frame(9, b"", fin=False)),
            st.just(ws_frame(3, b"")),
            st.just(b"\x82\xfe\0\x05" + bytes(9)),  # a length in two bytes that needs one
            st.just(b"\x82\xff" + bytes(6) + b"\x01\0" + bytes(260)),
            st.just(b"\x82\xff" + b"\xff" * 8 + bytes(4)),
            st.just(b"\x82\xff" + (1_048_577).to_bytes(8, "big") + bytes(4)),
            st.just(b"\x82\xff" + (1_048_576).to_bytes(8, "big") + bytes(4)),
            st.just(b"\x82\xfe\xff\xff" + bytes(40)),
            st.just(b"\x82\x80" + bytes(4)),
            st.binary(min_size=1, max_size=20),
        ),
        st.lists(frames, max_size=5).map(b"".join),
    ).map(lambda p: b"".join([ws_frame(2, p[0]), p[1], ws_frame(2, p[2])]).hex()),
)
"""WebSocket frames that are odd or wrong."""

steps = st.one_of(
    sent,
    sent,
    acted,
    shaped,
    shaped,
    web,
    mixed,
    said,
    st.tuples(st.just("broadcast"), st.integers(0, 9), st.integers(0, 600)),
    st.tuples(st.just("acknowledge"), st.sampled_from([0, 0, 0, -1, 1])),
    st.just(("cut",)),
    st.just(("again",)),
    st.tuples(st.just("close"), st.sampled_from([int(CloseCode.NORMAL), int(CloseCode.GOING_AWAY)])),
)


class Core:
    """A process in which one of the cores runs."""

    def __init__(self, wanted: str, log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.both_cores"],
                env={**os.environ, _native.VARIABLE: wanted},
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def begin(self, trace: Any) -> None:
        assert self._process.stdin is not None
        print(json.dumps(trace), file=self._process.stdin, flush=True)

    def outcome(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(f"it ended with {self._process.wait(10)}: {self._log.read_text()[-3_000:]}")
        return json.loads(answer)

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Core]]:
    """Pure Python, and the compiled core."""
    folder = tmp_path_factory.mktemp("cores")
    both = [Core(wanted, folder / wanted) for wanted in ("0", "1")]
    yield both
    for each in both:
        each.end()


def assert_same(cores: list[Core], kind: str, way: str, trace: list[Any]) -> None:
    for _ in range(TRIES):
        for each in cores:
            each.begin([kind, way, trace])
        pure, native = (each.outcome() for each in cores)
        if pure == native:
            break
    assert pure == native


@settings(max_examples=60)
@given(kind=st.sampled_from(KINDS), way=st.sampled_from(WAYS), trace=st.lists(steps, min_size=1, max_size=12))
def test_a_trace_does_the_same_on_both_cores(cores: list[Core], kind: str, way: str, trace: list[Any]) -> None:
    """What the client hears and the handlers get, how sessions end, and what is counted, after each step."""
    assert_same(cores, kind, way, trace)


@settings(max_examples=60)
@example(
    way="transport", trace=[("records", (frame_of(Echo(1)) * 20).hex(), [19 * len(frame_of(Echo(1)))], 1, "flip", 0)]
)
@given(way=st.sampled_from(WAYS), trace=st.lists(st.one_of(in_records, in_records, steps), min_size=1, max_size=8))
def test_records_do_the_same_on_both_cores(cores: list[Core], way: str, trace: list[Any]) -> None:
    """Records of any sizes in one read, at most one of them bad, and the last one not whole."""
    assert_same(cores, "sealed", way, trace)
