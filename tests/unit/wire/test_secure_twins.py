"""Both twins of the record layer give the same bytes, errors and counts for the same bytes, in any pieces."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink import _native
from gatelink.errors import GatelinkError
from gatelink.wire.frames import SEALED
from gatelink.wire.noise import MAX_MESSAGES
from gatelink.wire.secure import MAX_PLAINTEXT, MAX_RECORD, RESERVED_RECORDS
from tests.twins import beside, built, core

OURS, PEERS = bytes([1]) * 32, bytes([2]) * 32

Step = tuple[str, Any]

plaintexts = st.one_of(st.binary(max_size=60), st.integers(MAX_PLAINTEXT - 1, 2 * MAX_PLAINTEXT + 1).map(bytes))
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("arrive"), plaintexts),
    st.tuples(st.just("arrive"), st.binary(min_size=1, max_size=60)),
    st.tuples(st.just("feed"), st.integers(0, 200)),
    st.tuples(st.just("feed"), st.integers(0, 200)),
    st.tuples(st.just("feed"), st.just(100_000)),
    st.tuples(st.just("seal"), plaintexts),
    st.tuples(st.just("rest"), st.none()),
    st.tuples(st.just("limit"), st.sampled_from([40, 1_100, MAX_RECORD])),
    st.tuples(st.just("lose"), st.binary(min_size=1, max_size=60)),
    st.tuples(st.just("change"), st.integers(0, 500)),
    st.tuples(st.just("make up"), st.binary(max_size=30)),
    st.tuples(st.just("declare"), st.integers(0, 70_000)),
)
counts = st.sampled_from([0, MAX_MESSAGES - RESERVED_RECORDS - 2, MAX_MESSAGES - 2])


class Trace:
    """One twin, and a peer with the pure one. `seen`: everything that can be seen of it after each step."""

    def __init__(self, SecureStream: Any, sent: int, received: int) -> None:
        self.stream, self.ciphers = make(SecureStream, (OURS, sent), (PEERS, received))
        self.peer, _ = make(_native.pure["SecureStream"], (PEERS, received), (OURS, sent))
        self.wire = b""
        self.woken = 0
        self.stream.on_wake = self.woke
        self.seen: list[Any] = []

    def woke(self, stream: Any) -> None:
        assert stream is self.stream
        self.woken += 1

    def step(self, name: str, value: Any) -> None:
        stream = self.stream
        result = None
        match name:
            case "arrive":
                self.wire += outcome(lambda: self.peer.seal(value)) or b""
            case "feed":
                data, self.wire = self.wire[:value], self.wire[value:]
                result = stream.feed(data)
            case "seal":
                result = outcome(lambda: stream.seal(value), keep=True)
            case "rest":
                stream.rest()
            case "limit":
                stream.max_record = value
            case "lose":
                outcome(lambda: self.peer.seal(value))
            case "change" if self.wire:
                wire = bytearray(self.wire)
                wire[value % len(wire)] ^= 1 << value % 8
                self.wire = bytes(wire)
            case "make up":
                self.wire += value
            case "declare":
                self.wire += value.to_bytes(3, "little") + bytes((SEALED,))
        self.seen.append(
            [
                result,
                type(stream.error),
                str(stream.error),
                stream.exhausted,
                stream.records,
                stream.buffered,
                stream.max_record,
                self.woken,
                [cipher.n for cipher in self.ciphers],
            ]
        )


def make(SecureStream: Any, *keys: tuple[bytes, int]) -> tuple[Any, list[Any]]:
    """A stream with these keys and counts, and its two ciphers."""
    ciphers = []
    for key, n in keys:
        ciphers.append(beside(SecureStream, "CipherState")(key))
        ciphers[-1].n = n
    return SecureStream(*ciphers), ciphers


def outcome(call: Callable[[], bytes], keep: bool = False) -> Any:
    """What a call returns. Of an error of ours, its type and text if they are to be kept."""
    try:
        return call()
    except GatelinkError as error:
        return (type(error), str(error)) if keep else None


@built
@given(st.lists(steps, max_size=30), counts, counts)
@settings(max_examples=300, deadline=None)
def test_both_give_the_same_bytes_errors_and_counts(trace: list[Step], sent: int, received: int) -> None:
    traces = [Trace(twin, sent, received) for twin in (_native.pure["SecureStream"], core.SecureStream)]
    for step in [*trace, ("feed", 1_000_000)]:
        for each in traces:
            each.step(*step)
        pure, compiled = (each.seen[-1] for each in traces)
        assert pure == compiled, step[0]


@built
def test_a_read_of_many_records_and_a_part_is_cut_anywhere_alike() -> None:
    """Each place at which a read may end, of several records and a bad one."""
    sender, _ = make(_native.pure["SecureStream"], (PEERS, 0), (OURS, 0))
    wire = b"".join(sender.seal(bytes(size)) for size in (1, 30, 2)) + b"\x05\0\0\4more"
    for cut in range(len(wire) + 1):
        seen = []
        for twin in (_native.pure["SecureStream"], core.SecureStream):
            stream, _ = make(twin, (OURS, 0), (PEERS, 0))
            parts = [stream.feed(wire[:cut]), stream.buffered, stream.feed(wire[cut:]), stream.buffered]
            seen.append([*parts, stream.records, repr(stream.error)])
        assert seen[0] == seen[1], cut
