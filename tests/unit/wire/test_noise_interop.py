"""Any Noise library is a peer: handshake and records with the independent PyPI `noiseprotocol`, in both roles."""

from typing import Any

import pytest
from noise.connection import Keypair, NoiseConnection

from gatelink.wire.keys import ServerKey
from gatelink.wire.noise import HandshakeState, Pattern
from gatelink.wire.secure import SecureStream

PROLOGUE = b"gatelink/1" + bytes(range(21))
PSK = bytes(range(100, 132))
NAMES = {Pattern.NK: b"Noise_NK_25519_AESGCM_SHA256", Pattern.NNPSK0: b"Noise_NNpsk0_25519_AESGCM_SHA256"}


def sides(pattern: Pattern, we_initiate: bool) -> tuple[HandshakeState, Any]:
    """Ours and theirs, with the keys that their roles have."""
    key = ServerKey.generate()
    theirs = NoiseConnection.from_name(NAMES[pattern])
    theirs.set_prologue(PROLOGUE)
    (theirs.set_as_responder if we_initiate else theirs.set_as_initiator)()
    if pattern is Pattern.NNPSK0:
        ours = HandshakeState(pattern, we_initiate, PROLOGUE, psk=PSK)
        theirs.set_psks(psk=PSK)
    elif we_initiate:
        ours = HandshakeState(pattern, True, PROLOGUE, rs=key.public)
        theirs.set_keypair_from_private_bytes(Keypair.STATIC, key.private.private_bytes_raw())
    else:
        ours = HandshakeState(pattern, False, PROLOGUE, s=key.private)
        theirs.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, key.public)
    theirs.start_handshake()
    return ours, theirs


@pytest.mark.parametrize("we_initiate", [True, False], ids=["initiator", "responder"])
@pytest.mark.parametrize("pattern", list(Pattern), ids=lambda pattern: pattern.name)
def test_handshake_and_records_with_another_implementation(pattern: Pattern, we_initiate: bool) -> None:
    ours, theirs = sides(pattern, we_initiate)
    if we_initiate:
        assert theirs.read_message(ours.write_message(b"first")) == b"first"
        assert ours.read_message(bytes(theirs.write_message(b"second"))) == b"second"
    else:
        assert ours.read_message(bytes(theirs.write_message(b"first"))) == b"first"
        assert theirs.read_message(ours.write_message(b"second")) == b"second"
    assert ours.handshake_hash == theirs.get_handshake_hash()

    stream = SecureStream(*ours.split())
    for plaintext in (b"one", b"two" * 1000, bytes(65_519)):
        frame = stream._seal_record(plaintext)  # `seal` makes several of the largest
        assert theirs.decrypt(frame[4:]) == plaintext
        record = bytes(theirs.encrypt(plaintext))
        assert stream.feed(len(record).to_bytes(3, "little") + b"\4" + record) == plaintext
    assert stream.error is None
