"""Control records: every one survives the wire, and anything else is a ProtocolError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import CloseCode, LocalError, ProtocolError
from gatelink.wire.control import (
    Ack,
    Close,
    Control,
    Features,
    GoAway,
    Handshake,
    HandshakeAnswer,
    Hello,
    Ping,
    Pong,
    Resume,
    Resumed,
    Ticket,
    decode_control,
    encode_control,
    handshake_fields,
)
from gatelink.wire.noise import HANDSHAKE_FIELDS_SIZE, Pattern

# What each record is on the wire, written by hand from docs/protocol.md.
WIRE: list[tuple[Control, str]] = [
    (Hello(1, 3), "01 01 0300000000000000 00"),
    (Hello(1, 0, slot=200, app_version="1.é"), "01 01 0000000000000000 02 01 0100 c8 02 0400 312ec3a9"),
    (
        Handshake(Pattern.NNPSK0, b"\xaa\xbb\xcc\xdd", 7, 2**64 - 1, b"noise"),
        "02 02 aabbccdd 0700000000000000 ffffffffffffffff 6e6f697365",
    ),
    (Ticket(b"s" * 16, b"k" * 32, 90, "a:1"), "03" + "73" * 16 + "6b" * 32 + "5a000000 0300 613a31"),
    (Resume(b"s" * 16, 5, 6, b"m" * 32), "04" + "73" * 16 + "0500000000000000 06000000" + "6d" * 32),
    (Resumed(5, b"m" * 32), "05 0500000000000000" + "6d" * 32),
    (Ping(1, 2), "06 0100000000000000 0200000000000000"),
    (Pong(1, 2, 3), "07 0100000000000000 0200000000000000 0300000000000000"),
    (Ack(258), "08 0201000000000000"),
    (Close(CloseCode.KICKED, "bye"), "09 a90f 0300 627965"),
    (GoAway(30_000, ""), "0a 30750000 0000"),
]
ANSWER = (HandshakeAnswer(b"noise"), "02 6e6f697365")


def name_of(value: object) -> str | None:
    return None if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("record", "wire"), WIRE, ids=name_of)
def test_a_record_has_the_bytes_of_the_protocol_document(record: Control, wire: str) -> None:
    assert encode_control(record).hex() == wire.replace(" ", "")
    assert decode_control(bytes.fromhex(wire)) == record


def test_a_handshake_is_read_as_the_answer_when_the_first_was_ours() -> None:
    record, wire = ANSWER
    assert encode_control(record) == bytes.fromhex(wire)
    assert decode_control(bytes.fromhex(wire), handshake_answer=True) == record


@pytest.mark.parametrize(("record", "wire"), WIRE, ids=name_of)
def test_a_record_cut_short_or_with_bytes_after_it_is_refused(record: Control, wire: str) -> None:
    payload = bytes.fromhex(wire)
    end = 1 + HANDSHAKE_FIELDS_SIZE if isinstance(record, Handshake) else len(payload)
    for size in range(1, end):
        with pytest.raises(ProtocolError):
            decode_control(payload[:size])
    if not isinstance(record, Handshake):  # whose last field is the rest
        with pytest.raises(ProtocolError):
            decode_control(payload + b"\0")


u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
texts = st.binary(max_size=100).map(lambda data: data.decode("utf-8", "surrogateescape"))
records: st.SearchStrategy[Control] = st.one_of(
    st.builds(Hello, st.integers(1, 255), u64, u8, texts),
    st.builds(Handshake, st.sampled_from(Pattern), st.binary(min_size=4, max_size=4), u64, u64, st.binary()),
    st.builds(Ticket, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), u32, texts),
    st.builds(Resume, st.binary(min_size=16, max_size=16), u64, u32, st.binary(min_size=32, max_size=32)),
    st.builds(Resumed, u64, st.binary(min_size=32, max_size=32)),
    st.builds(Ping, u64, u64),
    st.builds(Pong, u64, u64, u64),
    st.builds(Ack, u64),
    st.builds(Close, u16, texts),
    st.builds(GoAway, u32, texts),
)


@given(records)
def test_every_record_survives_the_wire(record: Control) -> None:
    assert decode_control(encode_control(record)) == record


@given(st.one_of(st.binary(max_size=80), st.builds(lambda kind, rest: bytes((kind,)) + rest, u8, st.binary())))
def test_any_bytes_are_a_record_or_ignored_or_a_protocol_error(payload: bytes) -> None:
    for handshake_answer in (False, True):
        try:
            record = decode_control(payload, handshake_answer=handshake_answer)
        except ProtocolError:
            continue
        if record is None:
            assert payload[0] >= 128
        elif not isinstance(record, Hello):  # of which unknown and default keys are not kept
            assert encode_control(record) == payload


@pytest.mark.parametrize("kind", [0, 15, 127])
def test_an_unknown_type_below_128_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown type {kind}"):
        decode_control(bytes((kind,)))


@pytest.mark.parametrize("kind", [128, 255])
def test_types_from_128_are_ignored_whatever_they_hold(kind: int) -> None:
    assert decode_control(bytes((kind,)) + b"anything") is None


def test_an_empty_payload_has_no_type() -> None:
    with pytest.raises(ProtocolError, match="no type"):
        decode_control(b"")


def test_a_reason_is_at_most_123_bytes_and_is_cut_between_characters_when_sent() -> None:
    assert decode_control(encode_control(Close(4000, "x" * 123))) == Close(4000, "x" * 123)
    assert decode_control(encode_control(Close(4000, "é" * 62))) == Close(4000, "é" * 61)
    with pytest.raises(ProtocolError, match="123"):
        decode_control(bytes.fromhex("09a00f7c00") + b"x" * 124)


def test_a_handshake_is_refused_by_its_size_only_when_a_field_is_missing() -> None:
    record = Handshake(Pattern.NK, b"kkkk", 1, 2, b"")
    payload = encode_control(record)
    assert decode_control(payload) == record
    with pytest.raises(
        ProtocolError, match=f"HANDSHAKE record of {len(payload) - 1} bytes; the least is {len(payload)}"
    ):
        decode_control(payload[:-1])


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ProtocolError, match="pattern 3"):
        decode_control(b"\2\3" + bytes(20 + 48))


def test_the_fields_of_a_handshake_are_the_21_bytes_before_its_noise_message() -> None:
    record = Handshake(Pattern.NK, b"kkkk", 1, 2, b"noise")
    assert record.fields == encode_control(record)[1:22] == handshake_fields(Pattern.NK, b"kkkk", 1, 2)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("02 01 0100 01 01 0100 02", "key 1 twice"),
        ("02 63 0000 63 0000", "key 99 twice"),
        ("01 01 0200 0100", "slot of 2 bytes"),
        ("01 01 0000", "slot of 0 bytes"),
    ],
)
def test_a_hello_with_ambiguous_or_malformed_keys_is_refused(keys: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode_control(bytes.fromhex("01 01 0000000000000000" + keys))


def test_a_hello_of_version_0_is_refused() -> None:
    with pytest.raises(ProtocolError, match="version 0"):
        decode_control(bytes.fromhex("01 00 0000000000000000 00"))


def test_unknown_keys_of_a_hello_are_ignored_and_unknown_features_kept() -> None:
    assert decode_control(bytes.fromhex("01 09 0300000000000080 01 63 0200 6869")) == Hello(9, 3 | 1 << 63)


def test_features_that_peers_invent_are_not_remembered() -> None:
    known = len(Features._value2member_map_)
    for bits in range(1, 200):
        hello = decode_control(encode_control(Hello(1, bits << 8)))
        assert isinstance(hello, Hello)
        assert hello.answer(Features.RESUME | Features.PING).features == 0
    assert len(Features._value2member_map_) <= known + 1


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [
        (Hello(1, 0xFF, slot=3, app_version="2"), Features.RESUME | Features.PING, Hello(1, 3)),
        (Hello(7, Features.PING), Features.RESUME | Features.PING, Hello(1, 2)),
        (Hello(1, Features.PING), Features.RESUME, Hello(1, 0)),
    ],
)
def test_the_answer_to_a_hello_is_the_lower_version_and_what_both_have(
    theirs: Hello, ours: Features, agreed: Hello
) -> None:
    assert theirs.answer(ours) == agreed
    assert decode_control(encode_control(theirs.answer(ours))) == agreed


def test_bytes_of_the_wrong_size_are_the_callers_error() -> None:
    for make in (
        lambda: Ticket(bytes(15), bytes(32), 1, ""),
        lambda: Ticket(bytes(16), bytes(33), 1, ""),
        lambda: Resume(bytes(15), 1, 1, bytes(32)),
        lambda: Resume(bytes(16), 1, 1, bytes(31)),
        lambda: Resumed(1, b""),
        lambda: Handshake(Pattern.NK, b"", 0, 0, b""),
    ):
        with pytest.raises(LocalError, match="must have"):
            make()
