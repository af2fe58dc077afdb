"""The proofs of RESUME and RESUMED (docs/protocol.md, "Resume"), against the text's own words."""

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import integers, sampled_from

from gatelink.wire.control import Resume, Resumed, decode_control, encode_control
from gatelink.wire.resume import NO_HANDSHAKE, client_mac, resume, resumed, server_mac, verify_resume, verify_resumed

KEY = bytes(range(32))
HASH = bytes(range(100, 132))
ID = bytes(range(200, 216))


def expected(label: bytes, key: bytes, handshake_hash: bytes, received: int, attempt: int) -> bytes:
    """As docs/protocol.md spells it: label + handshake hash + session id + received u64 + attempt u32."""
    text = label + handshake_hash + ID + received.to_bytes(8, "little") + attempt.to_bytes(4, "little")
    return hmac.new(key, text, hashlib.sha256).digest()


@given(received=integers(0, 2**64 - 1), attempt=integers(0, 2**32 - 1), handshake_hash=sampled_from([HASH, bytes(32)]))
def test_the_macs_are_those_of_the_protocol(received: int, attempt: int, handshake_hash: bytes) -> None:
    ours = (
        client_mac(KEY, handshake_hash, ID, received, attempt),
        server_mac(KEY, handshake_hash, ID, received, attempt),
    )
    assert ours == (
        expected(b"gatelink resume c", KEY, handshake_hash, received, attempt),
        expected(b"gatelink resume s", KEY, handshake_hash, received, attempt),
    )


def test_without_a_handshake_the_hash_is_32_zero_bytes() -> None:
    assert bytes(32) == NO_HANDSHAKE


def test_a_resume_survives_the_wire_and_proves_the_key() -> None:
    record = decode_control(encode_control(resume(KEY, HASH, ID, 7, 3)))
    assert isinstance(record, Resume) and (record.session_id, record.received, record.attempt) == (ID, 7, 3)
    assert verify_resume(record, KEY, HASH)
    answer = decode_control(encode_control(resumed(KEY, HASH, ID, 9, 3)))
    assert isinstance(answer, Resumed) and answer.received == 9
    assert verify_resumed(answer, KEY, HASH, ID, 3)


@pytest.mark.parametrize(
    "changed",
    [{"session_id": bytes(16)}, {"received": 8}, {"attempt": 4}, {"mac": bytes(32)}, {"mac": HASH}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_resume_changed_on_its_way_proves_nothing(changed: dict[str, Any]) -> None:
    record = resume(KEY, HASH, ID, 7, 3)
    fields = {name: getattr(record, name) for name in record.__struct_fields__} | changed
    assert not verify_resume(Resume(**fields), KEY, HASH)


def test_a_resume_is_of_no_use_with_another_key_or_on_another_connection() -> None:
    record = resume(KEY, HASH, ID, 7, 3)
    assert not verify_resume(record, bytes(32), HASH)
    assert not verify_resume(record, KEY, NO_HANDSHAKE)
    assert not verify_resume(resume(KEY, NO_HANDSHAKE, ID, 7, 3), KEY, HASH)


@pytest.mark.parametrize("wrong", ["key", "hash", "id", "attempt", "count"])
def test_an_answer_to_another_resume_proves_nothing(wrong: str) -> None:
    answer = resumed(KEY, HASH, ID, 9, 3)
    if wrong == "count":
        answer = Resumed(8, answer.mac)
    assert not verify_resumed(
        answer,
        bytes(32) if wrong == "key" else KEY,
        NO_HANDSHAKE if wrong == "hash" else HASH,
        bytes(16) if wrong == "id" else ID,
        4 if wrong == "attempt" else 3,
    )


def test_a_clients_proof_is_not_the_servers() -> None:
    """Else an echo of RESUME's mac would do as RESUMED."""
    mac = resume(KEY, HASH, ID, 7, 3).mac
    assert not verify_resumed(Resumed(7, mac), KEY, HASH, ID, 3)


@given(bit=integers(0, 255))
def test_every_bit_of_a_mac_counts(bit: int) -> None:
    record = resume(KEY, HASH, ID, 7, 3)
    flipped = (int.from_bytes(record.mac, "big") ^ 1 << bit).to_bytes(32, "big")
    assert not verify_resume(Resume(ID, 7, 3, flipped), KEY, HASH)
