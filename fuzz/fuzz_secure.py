"""Sealed records lost, repeated, cut, changed or made up: records in order are opened, then there is an error.

The same whole or byte by byte, and the same in Python and compiled. The input is a script for an attacker between two
peers with shared keys.
"""

import importlib
from enum import IntEnum
from typing import Any

from fuzz.harness import main
from gatelink import _native
from gatelink.wire.frames import HEADER_SIZE, SEALED
from gatelink.wire.noise import CipherState
from gatelink.wire.secure import MIN_RECORD, SecureStream

PURE: Any = _native.pure["SecureStream"], _native.pure["CipherState"]
try:
    _core: Any = importlib.import_module("gatelink._core")
    TWINS = [PURE, (_core.SecureStream, _core.CipherState)]
except ImportError:
    TWINS = [PURE]

KEY, OTHER_KEY = bytes([1]) * 32, bytes([2]) * 32
MAX_RECORD = 200
LONGEST = 2_000  # bytes of a script's stream: more would be slower and show nothing new


class Step(IntEnum):
    """A byte of a script, modulo 6. A number follows; then a byte for CHANGE, that many bytes for MAKE_UP."""

    PASS = 0  # a record of so many bytes arrives
    LOSE = 1  # it does not
    REPEAT = 2  # an earlier one arrives again
    CUT = 3  # the first bytes of one arrive
    CHANGE = 4  # one arrives with a byte changed
    MAKE_UP = 5  # bytes arrive that nobody sealed


def check(script: bytes) -> None:
    records, stream = attack(script)
    plaintexts, wrong = expected(records, stream)
    errors = {repr(check_twin(twin, stream, plaintexts, wrong)) for twin in TWINS}
    assert len(errors) == 1, f"the twins give other errors: {errors}"


def check_twin(twin: Any, stream: bytes, plaintexts: bytes, wrong: bool) -> Exception | None:
    """The error of a twin that is fed all of `stream`."""
    secure, cipher = twin
    whole, bytewise = (secure(cipher(OTHER_KEY), cipher(KEY), MAX_RECORD) for _ in range(2))
    assert whole.feed(stream) == plaintexts, "what is opened is not what was sealed, in order"
    assert b"".join([bytewise.feed(stream[at : at + 1]) for at in range(len(stream))]) == plaintexts
    assert (whole.error is not None) == wrong, f"{whole.error!r}, expected {'one' if wrong else 'none'}"
    assert repr(bytewise.error) == repr(whole.error), "byte by byte gives another error"
    assert whole.buffered == bytewise.buffered <= HEADER_SIZE + MAX_RECORD, f"{whole.buffered} bytes held"
    if wrong:
        assert not whole.feed(stream), "it goes on after an error"
    error: Exception | None = whole.error
    return error


def attack(script: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Every record that was sealed, in order, with its plaintext; and the bytes that arrive."""
    sender = SecureStream(CipherState(KEY), CipherState(OTHER_KEY))
    records: dict[bytes, bytes] = {}
    stream = b""

    def seal(size: int) -> bytes:
        plaintext = bytes([len(records) & 0xFF]) * max(1, size)
        record = sender.seal(plaintext)
        records[record] = plaintext
        return record

    steps = iter(script)
    for step in steps:
        if len(stream) > LONGEST:
            break
        number = next(steps, 0)
        match Step(step % len(Step)):
            case Step.PASS:
                stream += seal(number)
            case Step.LOSE:
                seal(number)
            case Step.REPEAT:
                stream += list(records)[number % len(records)] if records else b""
            case Step.CUT:
                stream += seal(32)[:number]
            case Step.CHANGE:
                record = bytearray(seal(32))
                record[number % len(record)] ^= next(steps, 1)
                stream += record
            case Step.MAKE_UP:
                stream += bytes(byte for byte, _ in zip(steps, range(number), strict=False))
    return records, stream


def expected(records: dict[bytes, bytes], stream: bytes) -> tuple[bytes, bool]:
    """The plaintext that a receiver of `stream` may give, and whether it must then report an error."""
    plaintexts = b""
    for record, plaintext in records.items():
        if not stream.startswith(record) or len(record) > HEADER_SIZE + MAX_RECORD:
            break
        plaintexts += plaintext
        stream = stream[len(record) :]
    if len(stream) < HEADER_SIZE:
        return plaintexts, False
    length = int.from_bytes(stream[:3], "little")
    plausible = stream[3] == SEALED and MIN_RECORD <= length <= MAX_RECORD
    return plaintexts, not plausible or len(stream) >= HEADER_SIZE + length


if __name__ == "__main__":
    main(check)
