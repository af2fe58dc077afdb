"""The Noise handshake inside HANDSHAKE records, both sides (docs/protocol.md, "Encryption").

The two HELLOs travel as the payloads of the two Noise messages, where they are authenticated. What comes out is a
`Sealing`: the record layer, what the other side said, and the handshake's hash, which resume proofs are bound to.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from gatelink.errors import ProtocolError
from gatelink.wire.control import (
    Handshake,
    HandshakeAnswer,
    Hello,
    decode_control,
    encode_control,
    handshake_fields,
)
from gatelink.wire.frames import encode_control_frame
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.noise import HandshakeState, Pattern, key_id, prologue
from gatelink.wire.secure import MAX_RECORD_UNVERIFIED, SecureStream


@dataclass(frozen=True, slots=True)
class Sealing:
    """A finished handshake."""

    stream: SecureStream
    hello: Hello  # what the other side said
    agreed: Hello  # the responder's: its features hold for the connection
    handshake_hash: bytes
    from_server: int  # 0: a client
    answer: bytes = b""  # the frame that the responder sends


class Responder:
    """The accepting side: its keys, of which it may hold several while they are being changed.

    keys: for clients. cluster_keys: for servers of the group. server_id: its own, which `to` of a server must name.
    """

    def __init__(
        self, keys: Iterable[ServerKey] = (), cluster_keys: Iterable[ClusterKey] = (), server_id: int = 0
    ) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._group_keys = {key.key_id: key for key in cluster_keys}
        self._server_id = server_id

    def respond(self, record: Handshake, features: int) -> Sealing:
        """Answers the first HANDSHAKE; `features` are this side's. Raises ProtocolError for anything wrong in it."""
        if record.pattern is Pattern.NK:
            key = self._keys.get(record.key_id)
            if key is None:
                ours = ", ".join(key.hex() for key in self._keys) or "none: give the server keys="
                raise ProtocolError(f"HANDSHAKE for unknown key {record.key_id.hex()}; this server's: {ours}")
            state = HandshakeState(Pattern.NK, False, prologue(record.fields), s=key.private)
        else:
            cluster_key = self._group_keys.get(record.key_id)
            if cluster_key is None:
                raise ProtocolError(f"HANDSHAKE for unknown group key {record.key_id.hex()}")
            if record.to_server != self._server_id or record.from_server in (0, self._server_id):
                raise ProtocolError(
                    f"HANDSHAKE from server {record.from_server} to {record.to_server}; this is {self._server_id}"
                )
            state = HandshakeState(Pattern.NNPSK0, False, prologue(record.fields), psk=cluster_key.psk)
        hello = _hello(state.read_message(record.message))
        agreed = hello.answer(features)
        message = state.write_message(encode_control(agreed))
        return Sealing(
            SecureStream(*state.split(), MAX_RECORD_UNVERIFIED),
            hello,
            agreed,
            state.handshake_hash,
            record.from_server if record.pattern is Pattern.NNPSK0 else 0,
            encode_control_frame(encode_control(HandshakeAnswer(message))),
        )


class Initiator:
    """The connecting side of one handshake: a client with the server's public key, or a server with the group's."""

    def __init__(self, key: bytes | ClusterKey, hello: Hello, from_server: int = 0, to_server: int = 0) -> None:
        self._hello = hello
        if isinstance(key, ClusterKey):
            fields = handshake_fields(Pattern.NNPSK0, key.key_id, from_server, to_server)
            self._state = HandshakeState(Pattern.NNPSK0, True, prologue(fields), psk=key.psk)
            record = Handshake(Pattern.NNPSK0, key.key_id, from_server, to_server, self._write())
        else:
            fields = handshake_fields(Pattern.NK, key_id(key), 0, 0)
            self._state = HandshakeState(Pattern.NK, True, prologue(fields), rs=key)
            record = Handshake(Pattern.NK, key_id(key), 0, 0, self._write())
        self.frame = encode_control_frame(encode_control(record))
        """What it sends first."""

    def finish(self, payload: bytes) -> Sealing:
        """Takes the payload of the CONTROL frame that answers. Raises ProtocolError."""
        record = decode_control(payload, handshake_answer=True)
        if not isinstance(record, HandshakeAnswer):
            raise ProtocolError("a HANDSHAKE was answered with another record")
        agreed = check_answer(self._hello, _hello(self._state.read_message(record.message)))
        return Sealing(SecureStream(*self._state.split()), agreed, agreed, self._state.handshake_hash, 0)

    def _write(self) -> bytes:
        return self._state.write_message(encode_control(self._hello))


def check_answer(hello: Hello, answer: Hello) -> Hello:
    """The server's HELLO, if it can answer `hello`. Raises ProtocolError."""
    if answer.version > hello.version or answer.features & ~hello.features:
        raise ProtocolError(
            f"HELLO of version {answer.version}, features {answer.features:#x} answers version {hello.version}, "
            f"features {hello.features:#x}"
        )
    return answer


def _hello(payload: bytes) -> Hello:
    record = decode_control(payload)
    if not isinstance(record, Hello):
        raise ProtocolError("the Noise message holds no HELLO")
    return record
