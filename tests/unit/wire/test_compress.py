"""Snappy blocks, honest and hostile."""

import pytest
from cramjam import snappy
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import BodyError, FrameTooLarge
from gatelink.wire.body import compress, decompress

LIMIT = 102_400


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def literal(data: bytes) -> bytes:
    """The snappy element for up to 60 bytes as they are."""
    return bytes([(len(data) - 1) << 2]) + data


bodies = st.binary(max_size=2_000) | st.builds(
    lambda part, times: part * times, st.binary(max_size=20), st.integers(0, 500)
)


@given(bodies)
def test_what_is_compressed_comes_back(body: bytes) -> None:
    assert decompress(compress(body), LIMIT) == body


@given(st.binary(max_size=200), st.integers(0, 1_000))
def test_any_block_gives_a_body_within_the_limit_or_a_protocol_error(block: bytes, limit: int) -> None:
    try:
        assert len(decompress(block, limit)) <= limit
    except (BodyError, FrameTooLarge):
        pass


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_damaged_block_gives_bytes_or_a_protocol_error(body: bytes, data: st.DataObject) -> None:
    block = bytearray(compress(body))
    block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decompress(bytes(block), LIMIT)
    except (BodyError, FrameTooLarge):
        pass


def test_an_empty_body_is_the_block_00() -> None:
    assert compress(b"") == b"\x00"
    assert decompress(b"\x00", 0) == b""


def test_a_block_is_never_empty() -> None:
    with pytest.raises(BodyError, match="without a snappy block"):
        decompress(b"", LIMIT)


def test_the_limit_is_the_largest_size_that_passes() -> None:
    block = compress(bytes(1_000))
    assert decompress(block, 1_000) == bytes(1_000)
    with pytest.raises(FrameTooLarge, match="1000 bytes .* 999"):
        decompress(block, 999)


@pytest.fixture
def no_decompressor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when the decompressor runs: it allocates what the block declares."""

    def run(block: bytes) -> bytes:
        raise AssertionError("the decompressor ran")

    monkeypatch.setattr(snappy, "decompress_raw", run)


@pytest.mark.usefixtures("no_decompressor")
@pytest.mark.parametrize("declared", [LIMIT + 1, 1 << 31, (1 << 32) - 1])
def test_a_declared_size_over_the_limit_is_refused_before_decompressing(declared: int) -> None:
    with pytest.raises(FrameTooLarge, match=str(declared)):
        decompress(varint(declared) + literal(b"bomb"), LIMIT)


@pytest.mark.usefixtures("no_decompressor")
def test_a_declared_size_that_the_block_is_too_short_for_is_refused_before_decompressing() -> None:
    with pytest.raises(BodyError, match="can't hold"):
        decompress(varint(LIMIT) + literal(b"a"), LIMIT)


def test_the_best_compression_there_is_passes() -> None:
    copies = 1_000  # of 64 bytes, each three bytes long: tag, offset 1 as u16
    block = varint(1 + 64 * copies) + literal(b"z") + b"\xfe\x01\x00" * copies
    assert decompress(block, LIMIT) == b"z" * (1 + 64 * copies)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(varint(3) + literal(b"four"), id="holds more than it declares"),
        pytest.param(varint(1) + literal(b"z") + b"\xfe\x01\x00" * 1_000, id="a bomb that declares one byte"),
        pytest.param(varint(5) + literal(b"four"), id="holds less than it declares"),
        pytest.param(varint(0) + literal(b"a"), id="declares nothing and holds something"),
        pytest.param(varint(4) + literal(b"four")[:-1], id="cut short"),
        pytest.param(varint(9) + literal(b"z") + b"\x11\x09", id="copies from before its start"),
        pytest.param(b"\x80", id="size without an end"),
        pytest.param(b"\xff" * 12, id="size of more than 32 bits"),
    ],
)
def test_a_corrupt_block_is_the_peers_fault(block: bytes) -> None:
    with pytest.raises(BodyError, match="snappy block of"):
        decompress(block, LIMIT)
