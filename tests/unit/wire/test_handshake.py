"""Both sides of HANDSHAKE (docs/protocol.md, "Encryption", "HELLO"): entry, agreement and failures."""

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers

from gatelink.errors import FrameTooLarge, ProtocolError
from gatelink.wire.control import (
    Features,
    Handshake,
    HandshakeAnswer,
    Hello,
    Ping,
    decode_control,
    encode_control,
    handshake_fields,
)
from gatelink.wire.frames import FrameDecoder
from gatelink.wire.handshake import Initiator, Responder, Sealing, check_answer
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.noise import HandshakeState, Pattern, prologue

KEY = ServerKey.generate()
CLUSTER_KEY = ClusterKey.generate()
BOTH = Features.RESUME | Features.PING


def payload_of(frame: bytes) -> bytes:
    """The one CONTROL frame's payload."""
    ((_, _, payload),) = FrameDecoder(2_000).feed(frame)
    return payload


def first_record(initiator: Initiator) -> Handshake:
    record = decode_control(payload_of(initiator.frame))
    assert isinstance(record, Handshake)
    return record


def shake_hands(initiator: Initiator, responder: Responder, features: int = BOTH) -> tuple[Sealing, Sealing]:
    """The initiator's and the responder's outcome."""
    theirs = responder.respond(first_record(initiator), features)
    return initiator.finish(payload_of(theirs.answer)), theirs


def test_client_and_server_agree_on_the_hash_the_hellos_and_the_ciphers() -> None:
    hello = Hello(1, BOTH, slot=3, app_version="1.2")
    client, server = shake_hands(Initiator(KEY.public, hello), Responder([KEY]))
    assert client.handshake_hash == server.handshake_hash and len(server.handshake_hash) == 32
    assert server.hello == hello
    assert client.agreed == server.agreed == Hello(1, BOTH)
    assert server.from_server == client.from_server == 0
    assert server.stream.feed(client.stream.seal(b"up")) == b"up"
    assert client.stream.feed(server.stream.seal(b"down")) == b"down"


def test_servers_of_a_cluster_agree_and_say_their_ids() -> None:
    near, far = shake_hands(Initiator(CLUSTER_KEY, Hello(1, BOTH), 5, 9), Responder((), [CLUSTER_KEY], server_id=9))
    assert near.handshake_hash == far.handshake_hash
    assert far.from_server == 5
    assert far.stream.feed(near.stream.seal(b"up")) == b"up"


def test_a_client_is_no_server_whatever_its_record_says() -> None:
    fields = handshake_fields(Pattern.NK, KEY.key_id, 5, 9)
    state = HandshakeState(Pattern.NK, True, prologue(fields), rs=KEY.public)
    message = state.write_message(encode_control(Hello()))
    sealing = Responder([KEY], server_id=9).respond(Handshake(Pattern.NK, KEY.key_id, 5, 9, message), BOTH)
    assert sealing.from_server == 0


@pytest.mark.parametrize("client, server", [(0, BOTH), (Features.PING, BOTH), (BOTH, Features.PING), (1 << 63 | 3, 3)])
def test_the_features_are_those_that_both_have_and_unknown_ones_are_ignored(client: int, server: int) -> None:
    ours, theirs = shake_hands(Initiator(KEY.public, Hello(1, client)), Responder([KEY]), server)
    assert ours.agreed.features == theirs.agreed.features == client & server


def test_the_version_is_the_lower_one() -> None:
    ours, theirs = shake_hands(Initiator(KEY.public, Hello(200, BOTH)), Responder([KEY]))
    assert ours.agreed.version == theirs.agreed.version == 1


@pytest.mark.parametrize("answer", [Hello(2, 0), Hello(1, 2), Hello(1, 1 << 40)], ids=["version", "feature", "unknown"])
@pytest.mark.parametrize("offered", [1, Features.RESUME], ids=["int", "flag"])
def test_a_server_that_agrees_to_what_was_not_offered_is_refused(answer: Hello, offered: int) -> None:
    with pytest.raises(ProtocolError, match="answers version 1, features 0x1"):
        check_answer(Hello(1, offered), answer)


def test_a_server_with_two_keys_answers_clients_of_either() -> None:
    old = ServerKey.generate()
    responder = Responder([KEY, old])
    for key in (KEY, old):
        ours, theirs = shake_hands(Initiator(key.public, Hello()), responder)
        assert ours.handshake_hash == theirs.handshake_hash


@pytest.mark.parametrize(
    "initiator, words",
    [
        (Initiator(ServerKey.generate().public, Hello()), "unknown key"),
        (Initiator(ClusterKey.generate(), Hello(), 5, 9), "unknown cluster key"),
        (Initiator(CLUSTER_KEY, Hello(), 5, 8), "from server 5 to 8; this is 9"),
        (Initiator(CLUSTER_KEY, Hello(), 9, 9), "from server 9 to 9; this is 9"),
        (Initiator(CLUSTER_KEY, Hello(), 0, 9), "from server 0 to 9; this is 9"),
    ],
    ids=["key", "cluster key", "another server", "itself", "nobody"],
)
def test_a_peer_that_names_the_wrong_key_or_server_is_refused(initiator: Initiator, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        Responder([KEY], [CLUSTER_KEY], server_id=9).respond(first_record(initiator), BOTH)


def test_a_key_id_that_is_right_is_not_enough() -> None:
    """A peer with only the first four hash bytes of the public key, or of a cluster key, gets no further."""
    record = first_record(Initiator(ServerKey.generate().public, Hello()))
    forged = Handshake(Pattern.NK, KEY.key_id, 0, 0, record.message)
    with pytest.raises(ProtocolError):
        Responder([KEY]).respond(forged, BOTH)


def test_only_a_server_with_the_private_key_can_answer() -> None:
    client = Initiator(KEY.public, Hello())
    record = first_record(client)
    impostor = ServerKey.generate()
    state = HandshakeState(Pattern.NK, False, prologue(record.fields), s=impostor.private)
    with pytest.raises(ProtocolError):
        state.read_message(record.message)
    # nor can it make something up
    with pytest.raises(ProtocolError):
        client.finish(encode_control(HandshakeAnswer(bytes(range(32)) + bytes(27))))


@given(bit=integers(8, 8 * len(payload_of(Initiator(KEY.public, Hello(1, 3, slot=2)).frame)) - 1))
def test_every_bit_of_the_first_message_is_authenticated(bit: int) -> None:
    """All behind the type byte, which would make it another record."""
    payload = bytearray(payload_of(Initiator(KEY.public, Hello(1, 3, slot=2)).frame))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        record = decode_control(bytes(payload))
        assert isinstance(record, Handshake)
        Responder([KEY], [CLUSTER_KEY]).respond(record, BOTH)


@given(bit=integers(8, 8 * (1 + 32 + 11 + 16) - 1))
def test_every_bit_of_the_answer_is_authenticated(bit: int) -> None:
    client = Initiator(KEY.public, Hello(1, 3))
    payload = bytearray(payload_of(Responder([KEY]).respond(first_record(client), BOTH).answer))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        client.finish(bytes(payload))


@pytest.mark.parametrize("inside", [b"", b"\x01", encode_control(Ping(1, 2)), b"\xff", encode_control(Hello()) + b"x"])
def test_a_noise_message_without_a_hello_is_refused_by_both_sides(inside: bytes) -> None:
    fields = handshake_fields(Pattern.NK, KEY.key_id, 0, 0)
    state = HandshakeState(Pattern.NK, True, prologue(fields), rs=KEY.public)
    record = Handshake(Pattern.NK, KEY.key_id, 0, 0, state.write_message(inside))
    with pytest.raises(ProtocolError):
        Responder([KEY]).respond(record, BOTH)

    client = Initiator(KEY.public, Hello())
    first = first_record(client)
    state = HandshakeState(Pattern.NK, False, prologue(first.fields), s=KEY.private)
    state.read_message(first.message)
    with pytest.raises(ProtocolError):
        client.finish(encode_control(HandshakeAnswer(state.write_message(inside))))


def test_until_verified_the_server_takes_records_up_to_1100_bytes_only() -> None:
    client, server = shake_hands(Initiator(KEY.public, Hello()), Responder([KEY]))
    assert len(server.stream.feed(client.stream.seal(bytes(1_084)))) == 1_084
    assert server.stream.feed(client.stream.seal(bytes(1_085))) == b""
    assert isinstance(server.stream.error, FrameTooLarge)


@given(key_id=binary(min_size=4, max_size=4), message=binary(max_size=200), known=integers(0, 1))
def test_any_first_message_is_refused_cleanly(key_id: bytes, message: bytes, known: int) -> None:
    for pattern, right in ((Pattern.NK, KEY.key_id), (Pattern.NNPSK0, CLUSTER_KEY.key_id)):
        with pytest.raises(ProtocolError):
            Responder([KEY], [CLUSTER_KEY]).respond(Handshake(pattern, right if known else key_id, 1, 0, message), BOTH)


@given(payload=binary(max_size=200))
def test_any_answer_is_refused_cleanly(payload: bytes) -> None:
    for start in (b"", b"\x02"):
        with pytest.raises(ProtocolError):
            Initiator(KEY.public, Hello()).finish(start + payload)
