"""The Noise handshake: the public vectors, both ways, and everything a hostile first message can try."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import ConfigError, LocalError, ProtocolError
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.noise import (
    MAX_MESSAGES,
    HandshakeState,
    Pattern,
    key_id,
    prologue,
    psk_id,
)
from tests.twins import twins

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "noise.json").read_text())["vectors"]
PATTERNS = {"Noise_NK_25519_AESGCM_SHA256": Pattern.NK, "Noise_NNpsk0_25519_AESGCM_SHA256": Pattern.NNPSK0}
SMALL_ORDER = [number.to_bytes(32, "little") for number in (0, 1, 2**255 - 20)]  # the last is p - 1


def private(text: str | None) -> X25519PrivateKey | None:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text)) if text else None


def vector_sides(vector: dict[str, Any]) -> tuple[HandshakeState, HandshakeState]:
    """The vector's initiator and responder."""
    pattern = PATTERNS[vector["protocol_name"]]
    remote = vector.get("init_remote_static")
    initiator = HandshakeState(
        pattern,
        True,
        bytes.fromhex(vector["init_prologue"]),
        rs=bytes.fromhex(remote) if remote else None,
        psk=bytes.fromhex(vector["init_psks"][0]) if "init_psks" in vector else None,
        e=private(vector["init_ephemeral"]),
    )
    responder = HandshakeState(
        pattern,
        False,
        bytes.fromhex(vector["resp_prologue"]),
        s=private(vector.get("resp_static")),
        psk=bytes.fromhex(vector["resp_psks"][0]) if "resp_psks" in vector else None,
        e=private(vector["resp_ephemeral"]),
    )
    return initiator, responder


def fresh_sides(pattern: Pattern, prologue: bytes = b"p") -> tuple[HandshakeState, HandshakeState]:
    key = ServerKey.generate()
    psk = bytes(range(32))
    if pattern is Pattern.NK:
        return HandshakeState(pattern, True, prologue, rs=key.public), HandshakeState(
            pattern, False, prologue, s=key.private
        )
    return HandshakeState(pattern, True, prologue, psk=psk), HandshakeState(pattern, False, prologue, psk=psk)


both_patterns = pytest.mark.parametrize("pattern", list(Pattern), ids=lambda pattern: pattern.name)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["protocol_name"])
def test_every_byte_of_the_public_vectors(vector: dict[str, Any]) -> None:
    initiator, responder = vector_sides(vector)
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    for (payload, message), (writer, reader) in zip(
        messages[:2], [(initiator, responder), (responder, initiator)], strict=True
    ):
        assert writer.write_message(payload) == message
        assert reader.read_message(message) == payload

    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(vector["handshake_hash"])
    initiator_sends, initiator_receives = initiator.split()
    responder_sends, responder_receives = responder.split()
    for number, (payload, ciphertext) in enumerate(messages[2:]):
        send, receive = (
            (initiator_sends, responder_receives) if number % 2 == 0 else (responder_sends, initiator_receives)
        )
        assert send.encrypt_with_ad(b"", payload) == ciphertext
        assert receive.decrypt_with_ad(b"", ciphertext) == payload


def test_both_patterns_have_a_vector() -> None:
    assert {PATTERNS[vector["protocol_name"]] for vector in VECTORS} == set(Pattern)


@both_patterns
def test_every_handshake_has_its_own_ephemeral_keys_and_hash(pattern: Pattern) -> None:
    hashes = set()
    for _ in range(2):
        initiator, responder = fresh_sides(pattern)
        assert responder.read_message(initiator.write_message(b"hello")) == b"hello"
        assert initiator.read_message(responder.write_message(b"")) == b""
        assert initiator.finished and responder.finished
        hashes.add(initiator.handshake_hash)
    assert len(hashes) == 2


@both_patterns
@given(position=st.integers(0, 56), bit=st.integers(0, 7), second=st.booleans())
def test_a_flipped_bit_of_either_message_is_refused(pattern: Pattern, position: int, bit: int, second: bool) -> None:
    writer, reader = fresh_sides(pattern)
    message = bytearray(writer.write_message(b"payload.."))
    if second:
        reader.read_message(bytes(message))
        writer, reader = reader, writer
        message = bytearray(writer.write_message(b"payload.."))
    message[position] ^= 1 << bit
    with pytest.raises(ProtocolError):
        reader.read_message(bytes(message))
    assert not reader.finished


@both_patterns
@given(message=st.binary(max_size=120))
def test_any_first_message_is_refused(pattern: Pattern, message: bytes) -> None:
    _, responder = fresh_sides(pattern)
    with pytest.raises(ProtocolError):
        responder.read_message(message)


@both_patterns
def test_another_prologue_is_refused(pattern: Pattern) -> None:
    key, psk = ServerKey.generate(), bytes(32)
    initiator = HandshakeState(pattern, True, b"one", rs=key.public, psk=psk)
    responder = HandshakeState(pattern, False, b"two", s=key.private, psk=psk)
    with pytest.raises(ProtocolError):
        responder.read_message(initiator.write_message())


def test_another_server_key_or_cluster_key_is_refused() -> None:
    initiator = HandshakeState(Pattern.NK, True, b"", rs=ServerKey.generate().public)
    responder = HandshakeState(Pattern.NK, False, b"", s=ServerKey.generate().private)
    with pytest.raises(ProtocolError):
        responder.read_message(initiator.write_message())
    initiator = HandshakeState(Pattern.NNPSK0, True, b"", psk=ClusterKey.generate().psk)
    responder = HandshakeState(Pattern.NNPSK0, False, b"", psk=ClusterKey.generate().psk)
    with pytest.raises(ProtocolError):
        responder.read_message(initiator.write_message())


@both_patterns
@pytest.mark.parametrize("point", SMALL_ORDER, ids=["0", "1", "p-1"])
def test_a_peers_public_key_of_small_order_is_refused_by_both_sides(pattern: Pattern, point: bytes) -> None:
    initiator, responder = fresh_sides(pattern)
    first = initiator.write_message()
    if pattern is Pattern.NK:  # es is in the first message
        with pytest.raises(ProtocolError, match="not usable"):
            responder.read_message(point + first[32:])
    with pytest.raises(ProtocolError, match="not usable"):
        initiator.read_message(point + bytes(16))


@both_patterns
def test_nothing_is_possible_after_a_message_that_failed(pattern: Pattern) -> None:
    initiator, responder = fresh_sides(pattern)
    first = initiator.write_message()
    with pytest.raises(ProtocolError):
        responder.read_message(first[:-1] + bytes((first[-1] ^ 1,)))
    with pytest.raises(LocalError, match="failed"):
        responder.read_message(first)
    with pytest.raises(LocalError, match="failed"):
        responder.write_message()
    with pytest.raises(LocalError, match="before the handshake is finished"):
        responder.split()
    with pytest.raises(LocalError, match="before the handshake is finished"):
        _ = responder.handshake_hash


def test_a_call_out_of_turn_is_the_callers_error() -> None:
    initiator, responder = fresh_sides(Pattern.NNPSK0)
    for early in (lambda: initiator.read_message(bytes(48)), responder.write_message, initiator.split):
        with pytest.raises(LocalError):
            early()


def test_the_keys_that_a_pattern_needs_are_the_callers_to_give() -> None:
    for initiator in (True, False):
        with pytest.raises(LocalError, match="NK needs"):
            HandshakeState(Pattern.NK, initiator, b"")
        with pytest.raises(LocalError, match="NNpsk0 needs psk"):
            HandshakeState(Pattern.NNPSK0, initiator, b"", psk=b"pass-phrase")
    with pytest.raises(LocalError, match="32 bytes"):
        HandshakeState(Pattern.NK, True, b"", rs=bytes(31))
    with pytest.raises(LocalError, match="at most"):
        fresh_sides(Pattern.NK)[0].write_message(bytes(65_488))


@twins("CipherState")
def test_a_failed_message_does_not_use_up_a_nonce(CipherState: Any) -> None:
    send, receive = CipherState(bytes(32)), CipherState(bytes(32))
    sealed = send.encrypt_with_ad(b"ad", b"text")
    for wrong in (sealed[:-1], sealed[:15], b""):
        with pytest.raises(ProtocolError):
            receive.decrypt_with_ad(b"ad", wrong)
    with pytest.raises(ProtocolError):
        receive.decrypt_with_ad(b"", sealed)
    assert receive.decrypt_with_ad(b"ad", sealed) == b"text"


@twins("CipherState")
def test_a_key_seals_and_opens_no_more_than_2_to_the_32_messages(CipherState: Any) -> None:
    send, receive = CipherState(bytes(32)), CipherState(bytes(32))
    send.n = receive.n = MAX_MESSAGES - 1
    assert receive.decrypt_with_ad(b"", send.encrypt_with_ad(b"", b"last")) == b"last"
    with pytest.raises(LocalError):
        send.encrypt_with_ad(b"", b"more")
    with pytest.raises(ProtocolError):
        receive.decrypt_with_ad(b"", bytes(17))


def test_prologue_and_key_ids_are_as_the_protocol_says() -> None:
    assert prologue(bytes(21)) == b"gatelink/1" + bytes(21)
    with pytest.raises(LocalError):
        prologue(bytes(22))
    assert key_id(b"k" * 32) == hashlib.sha256(b"k" * 32).digest()[:4]
    assert psk_id(b"k" * 32) == hashlib.sha256(b"gatelink psk id" + b"k" * 32).digest()[:4]


@pytest.mark.parametrize("kind", [ServerKey, ClusterKey])
def test_a_key_survives_its_hex_and_does_not_show_in_its_repr(kind: type[ServerKey] | type[ClusterKey]) -> None:
    key = kind.generate()
    again = kind.from_hex(key.to_hex())
    assert again.to_hex() == key.to_hex() and again.key_id == key.key_id and len(key.key_id) == 4
    assert key.to_hex() not in repr(key) and key.key_id.hex() in repr(key)


@pytest.mark.parametrize("kind", [ServerKey, ClusterKey])
@pytest.mark.parametrize("text", ["", "secret", "ab" * 31, "ab" * 33, "zz" * 32])
def test_a_bad_key_text_is_refused_without_repeating_it(kind: type[ServerKey] | type[ClusterKey], text: str) -> None:
    with pytest.raises(ConfigError, match="64 hex digits") as caught:
        kind.from_hex(text)
    assert not text or text not in str(caught.value)


def test_a_cluster_key_is_32_bytes() -> None:
    with pytest.raises(ConfigError, match="32 random"):
        ClusterKey(b"pass-phrase")
