"""Any bytes as a HANDSHAKE, or as what is authenticated inside one: a sealed connection, or a ProtocolError.

The first byte chooses the pattern, the side that is attacked, and whether the attacker holds its keys.
"""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fuzz.harness import main
from gatelink.errors import ProtocolError
from gatelink.wire.control import (
    Control,
    Features,
    Handshake,
    HandshakeAnswer,
    Hello,
    decode_control,
    encode_control,
    handshake_fields,
)
from gatelink.wire.frames import HEADER_SIZE
from gatelink.wire.handshake import Initiator, Responder, Sealing
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.noise import HandshakeState, Pattern, prologue
from gatelink.wire.secure import SecureStream

SERVER_KEY = ServerKey(X25519PrivateKey.from_private_bytes(bytes([1]) * 32))
CLUSTER_KEY = ClusterKey(bytes([2]) * 32)
SERVER, OTHER_SERVER = 1, 2
FEATURES = Features.PING | Features.RESUME
HELLO = Hello(features=FEATURES)

NNPSK0, INITIATOR, AUTHENTIC = 1, 2, 4
"""Bits of the first byte. 0: an NK responder gets any bytes."""


def check(data: bytes) -> None:
    choice, payload = data[0] if data else 0, data[1:]
    pattern = Pattern.NNPSK0 if choice & NNPSK0 else Pattern.NK
    try:
        if choice & INITIATOR:
            attack_initiator(pattern, payload, bool(choice & AUTHENTIC))
        elif choice & AUTHENTIC:
            attack_responder(pattern, payload)
        else:
            record = decode_control(payload)
            if isinstance(record, Handshake):
                responder().respond(record, FEATURES)
    except ProtocolError:
        pass


def attack_responder(pattern: Pattern, hello: bytes) -> None:
    """A client, or a server with the cluster key, sends `hello`."""
    fields = fields_of(pattern)
    state = HandshakeState(pattern, True, prologue(fields), rs=SERVER_KEY.public, psk=CLUSTER_KEY.psk)
    record = decode_control(bytes([2]) + fields + state.write_message(hello))
    assert isinstance(record, Handshake)
    sealing = responder().respond(record, FEATURES)
    assert sealing.from_server == record.from_server
    answer = decode_control(sealing.answer[HEADER_SIZE:], handshake_answer=True)
    assert isinstance(answer, HandshakeAnswer)
    assert decode_control(state.read_message(answer.message)) == sealing.agreed
    check_streams(sealing, SecureStream(*state.split()), state.handshake_hash)


def attack_initiator(pattern: Pattern, payload: bytes, authentic: bool) -> None:
    """A server answers with `payload`, or, authentic, sends it inside its answer."""
    initiator = Initiator(CLUSTER_KEY, HELLO, OTHER_SERVER, SERVER) if pattern is Pattern.NNPSK0 else client()
    if not authentic:
        initiator.finish(payload)
        raise AssertionError("an answer that nobody could make was believed")
    first: Control | None = decode_control(initiator.frame[HEADER_SIZE:])
    assert isinstance(first, Handshake)
    state = HandshakeState(pattern, False, prologue(first.fields), s=SERVER_KEY.private, psk=CLUSTER_KEY.psk)
    assert decode_control(state.read_message(first.message)) == HELLO
    sealing = initiator.finish(encode_control(HandshakeAnswer(state.write_message(payload))))
    assert not sealing.agreed.features & ~HELLO.features and sealing.agreed.version <= HELLO.version
    check_streams(sealing, SecureStream(*state.split()), state.handshake_hash)


def check_streams(sealing: Sealing, other: SecureStream, handshake_hash: bytes) -> None:
    """Both sides have the same hash, and open what the other one seals."""
    assert sealing.handshake_hash == handshake_hash
    assert sealing.stream.feed(other.seal(b"there")) == b"there"
    assert other.feed(sealing.stream.seal(b"back")) == b"back"


def responder() -> Responder:
    return Responder([SERVER_KEY], [CLUSTER_KEY], SERVER)


def client() -> Initiator:
    return Initiator(SERVER_KEY.public, HELLO)


def fields_of(pattern: Pattern) -> bytes:
    if pattern is Pattern.NK:
        return handshake_fields(pattern, SERVER_KEY.key_id, 0, 0)
    return handshake_fields(pattern, CLUSTER_KEY.key_id, OTHER_SERVER, SERVER)


if __name__ == "__main__":
    main(check)
