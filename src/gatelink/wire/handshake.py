"""The Noise handshake inside HANDSHAKE records, both sides (docs/protocol.md, "Encryption").

The two HELLOs are the payloads of the two Noise messages, which authenticate them. The result is a `Sealing`: the
record layer, the other side's HELLO, and the handshake's hash, which resume proofs are bound to.
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
    hello: Hello  # of the other side
    agreed: Hello  # of the responder: its features hold for the connection
    handshake_hash: bytes
    from_server: int  # 0: a client
    answer: bytes = b""  # the frame that the responder sends


class Responder:
    """The accepting side. It may have several keys while they are being changed.

    keys: for clients. cluster_keys: for servers of the cluster. server_id: its own id; a server's HANDSHAKE names it.
    """

    def __init__(
        self, keys: Iterable[ServerKey] = (), cluster_keys: Iterable[ClusterKey] = (), server_id: int = 0
    ) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._cluster_keys = {key.key_id: key for key in cluster_keys}
        self._server_id = server_id

    def respond(self, record: Handshake, features: int) -> Sealing:
        """Answer the first HANDSHAKE. `features` are this side's. Raises ProtocolError for a bad one."""
        if record.pattern is Pattern.NK:
            key = self._keys.get(record.key_id)
            if key is None:
                ours = ", ".join(key.hex() for key in self._keys) or "none: give the server keys="
                raise ProtocolError(f"HANDSHAKE for unknown key {record.key_id.hex()}; this server's: {ours}")
            state = HandshakeState(Pattern.NK, False, prologue(record.fields), s=key.private)
        else:
            cluster_key = self._cluster_keys.get(record.key_id)
            if cluster_key is None:
                raise ProtocolError(f"HANDSHAKE for unknown cluster key {record.key_id.hex()}")
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
    """The connecting side of one handshake: a client with the server's public key, or a server with the cluster key."""

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
        """The first frame to send."""

    def finish(self, payload: bytes) -> Sealing:
        """Read the payload of the answer's CONTROL frame. Raises ProtocolError."""
        record = decode_control(payload, handshake_answer=True)
        if not isinstance(record, HandshakeAnswer):
            raise ProtocolError("the answer to a HANDSHAKE is another record")
        agreed = check_answer(self._hello, _hello(self._state.read_message(record.message)))
        return Sealing(SecureStream(*self._state.split()), agreed, agreed, self._state.handshake_hash, 0)

    def _write(self) -> bytes:
        return self._state.write_message(encode_control(self._hello))


def check_answer(hello: Hello, answer: Hello) -> Hello:
    """The server's HELLO, if it can answer `hello`. Raises ProtocolError."""
    if answer.version > hello.version or answer.features & ~int(hello.features):  # ~ of an IntFlag lacks unknown bits
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
