"""Makes docs/vectors/extension.jsonl, which clients in other languages are tested with.

`python -m tests.vectors.make_extension` writes it. Every key is a byte repeated, so that nobody mistakes it for a
secret, and the same bytes come out every time.
"""

import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct

from gatelink.errors import CloseCode, RequestCode
from gatelink.session.requests import failed_frame
from gatelink.wire.base import VERIFY_REQUEST, VERIFY_SUCCEEDED, ClientVerifyRequest, ClientVerifySucceeded
from gatelink.wire.codecs import BINARY
from gatelink.wire.control import (
    Ack,
    Close,
    Control,
    ControlType,
    Expiring,
    Features,
    GoAway,
    HandshakeAnswer,
    Hello,
    Lost,
    Ping,
    Pong,
    Renew,
    Renewed,
    Resume,
    Resumed,
    Ticket,
    encode_control,
    handshake_fields,
)
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_control_frame, encode_frame, tagged
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.noise import HandshakeState, Pattern, prologue
from gatelink.wire.resume import NO_HANDSHAKE, resume, resumed
from gatelink.wire.secure import SecureStream

FILE = Path(__file__).parents[2] / "docs" / "vectors" / "extension.jsonl"

Line = dict[str, Any]


def private(byte: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([byte]) * 32)


SERVER_KEY = ServerKey(private(0x01))
CLUSTER_KEY = ClusterKey(bytes([0x02]) * 32)
EPHEMERAL = (0x03, 0x04)  # the initiator's and the responder's
EPHEMERAL_AGAIN = (0x05, 0x06)  # of the connection that resumes
RESUME_KEY = bytes([0x07]) * 32
SESSION_ID = bytes([0x08]) * 16

SERVER_ID, OTHER_SERVER_ID = 9_001, 9_002
UID = 7
TOKEN = f"{UID:032}"
WINDOW = 120
SAY, REPLY = (11_001, b"hello"), (11_002, b"hello back")

FEATURES = Features.RESUME | Features.PING
HELLO = Hello(features=FEATURES)
NUMBER = 0x0102030405060708

CONTROLS: list[tuple[str, Control]] = [
    ("only the version", Hello()),
    ("both features, as a client without slots says it", HELLO),
    ("both features and both keys", Hello(1, FEATURES, 2, "1.4.0-é")),
    ("resume here", Ticket(SESSION_ID, RESUME_KEY, WINDOW, "")),
    ("resume there", Ticket(SESSION_ID, RESUME_KEY, 2**32 - 1, "tcp://10.0.0.1:7000")),
    ("the smallest", Ping(0, 0)),
    ("every byte in its place", Ping(NUMBER, NUMBER << 1)),
    ("the largest", Ping(2**64 - 1, 2**64 - 1)),
    ("a server's answer", Pong(NUMBER, 5, 1_700_000_000_000)),
    ("a client's answer", Pong(NUMBER, 5, 0)),
    ("64 messages", Ack(64)),
    ("the largest", Ack(2**64 - 1)),
    ("normal, without a reason", Close(CloseCode.NORMAL)),
    ("a reason for people", Close(CloseCode.KICKED, "out – for spam")),
    ("a code that is not known yet, the longest reason", Close(4_999, "x" * 123)),
    ("come back here within a second", GoAway(1_000)),
    ("come back there", GoAway(30_000, "tcp://10.0.0.2:7000")),
    ("a fresh token", Renew(TOKEN)),
    ("accepted, for an hour", Renewed(0, 3_600)),
    ("accepted, for ever", Renewed(0, 0)),
    ("refused", Renewed(1, 0)),
    ("a minute is left", Expiring(60)),
    ("three messages to a lobby, and one from it", Lost(12, 3, 1)),
]

IGNORED = [
    ("the first type that is ignored", bytes([128])),
    ("the last one, with fields", bytes([255]) + b"fields"),
]

REFUSED = [
    ("no type", b""),
    ("an unknown type below 128", b"\x0e"),
    ("a RENEW cut short", encode_control(Renew("abc"))[:-1]),
    ("a RENEWED with a byte too many", encode_control(Renewed(0, 1)) + b"\0"),
    ("type 0", b"\x00"),
    ("a byte behind the fields of a PING", encode_control(Ping(1, 2)) + b"\0"),
    ("an ACK cut short", encode_control(Ack(1))[:-1]),
    ("a CLOSE whose reason is longer than it says", encode_control(Close(4_000, "ab")) + b"c"),
    ("a CLOSE with a reason of 124 bytes", bytes([9]) + (4_000).to_bytes(2, "little") + b"\x7c\0" + b"x" * 124),
    ("a HELLO of version 0", encode_control(Hello(0))),
    ("a HELLO with a key given twice", bytes([1, 1]) + bytes(8) + bytes([2]) + b"\x01\x01\0\x05" * 2),
    ("a HELLO with a slot of 2 bytes", bytes([1, 1]) + bytes(8) + bytes([1]) + b"\x01\x02\0\x05\0"),
    ("a HANDSHAKE with pattern 3", bytes([2, 3]) + bytes(20) + bytes(48)),
]

TAG = 0x0005_0000
"""The tag of a client's sixth request."""

SERVICE_TAG = 0x0007_0312
"""The tag of the eighth request of a service of type 0x12, to a player whose binding there is number 3 (or 259)."""

REQUESTS: list[tuple[str, str, Line, bytes]] = [
    ("request", "message 11001 as a request", {"id": 11_001, "tag": TAG}, tagged(encode_frame(*SAY), TAG, REQUEST)),
    ("answer", "its answer", {"id": 11_002, "tag": TAG}, tagged(encode_frame(*REPLY), TAG, ANSWER)),
    (
        "request",
        "of a service behind a gateway",
        {"id": 11_001, "tag": SERVICE_TAG},
        tagged(encode_frame(*SAY), SERVICE_TAG, REQUEST),
    ),
    *[
        (
            "failed",
            note,
            {"id": 11_001, "tag": TAG, "code": code, "detail": detail, "reason": reason},
            failed_frame(11_001, TAG, RequestCode(code), detail, reason),
        )
        for note, code, detail, reason in (
            ("no handler: the shortest", 1, 0, ""),
            ("refused, with the application's number and words", 4, 4_000_000_000, "full – come later"),
            ("the longest reason", 4, 1, "x" * 123),
        )
    ],
]

REFUSED_TAGS = [
    ("a request without a tag", encode_frame(11_001, b"abc", REQUEST)),
    ("an answer without a tag", encode_frame(11_001, b"", ANSWER)),
    ("a failure cut short", encode_frame(11_001, bytes(11), FAILED)),
    ("a failure whose reason is longer than it says", encode_frame(11_001, bytes(12) + b"a", FAILED)),
    ("a failure with a reason of 124 bytes", encode_frame(11_001, bytes(10) + b"\x7c\0" + b"x" * 124, FAILED)),
    ("a compressed failure", encode_frame(11_001, bytes(12), FAILED | 1)),
    ("a flags byte between request and answer", encode_frame(11_001, bytes(12), REQUEST | 4)),
    ("a request with an id of the framework", encode_frame(24, bytes(4), REQUEST)),
]

UNKNOWN_IN_HELLO = bytes([1, 2]) + (1 << 63 | FEATURES).to_bytes(8, "little") + b"\x02\xc8\x03\0abc\x01\x01\0\x05"


def lines() -> list[Line]:
    """Every vector, in the file's order."""
    return [
        *[control_line(record, note) for note, record in CONTROLS],
        {
            "kind": "control",
            "name": "HELLO",
            "note": "version 2, an unknown feature and an unknown key: take what you know",
            "fields": {"version": 2, "features": 1 << 63 | FEATURES, "slot": 5, "app_version": ""},
            "frame": encode_control_frame(UNKNOWN_IN_HELLO).hex(),
        },
        *[{"kind": "ignored", "note": note, "frame": encode_control_frame(data).hex()} for note, data in IGNORED],
        *[{"kind": "refused", "note": note, "frame": encode_control_frame(data).hex()} for note, data in REFUSED],
        *[
            {"kind": kind, "note": note, "fields": fields, "frame": frame.hex()}
            for kind, note, fields, frame in REQUESTS
        ],
        *[{"kind": "refused-request", "note": note, "frame": frame.hex()} for note, frame in REFUSED_TAGS],
        *proof_lines("no handshake: TLS", NO_HANDSHAKE),
        *proof_lines("sealed: the hash of the NK handshake below", Conversation(EPHEMERAL).handshake_hash),
        handshake_line(Pattern.NK),
        handshake_line(Pattern.NNPSK0),
        {"kind": "transcript", "name": "session", "connections": [session()], **transcript_keys()},
        {"kind": "transcript", "name": "resume", "connections": resumed_session(), **transcript_keys()},
    ]


# -- control records --


def control_line(record: Control, note: str) -> Line:
    payload = encode_control(record)
    return {
        "kind": "control",
        "name": ControlType(payload[0]).name,
        "note": note,
        "fields": plain(record),
        "frame": encode_control_frame(payload).hex(),
    }


def plain(record: Struct) -> dict[str, Any]:
    """The fields of `record`, bytes as hex."""
    found = {name: getattr(record, name) for name in record.__struct_fields__}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in found.items()}


def proof_lines(note: str, handshake_hash: bytes) -> list[Line]:
    """RESUME and RESUMED, with all that their macs are made of."""
    found = []
    for name, make, received in (("RESUME", resume, 3), ("RESUMED", resumed, 5)):
        record: Resume | Resumed = make(RESUME_KEY, handshake_hash, SESSION_ID, received, 1)
        line = control_line(record, note)
        line["kind"] = "proof"
        line["mac_of"] = {
            "resume_key": RESUME_KEY.hex(),
            "label": f"gatelink resume {'c' if name == 'RESUME' else 's'}",
            "handshake_hash": handshake_hash.hex(),
            "session_id": SESSION_ID.hex(),
            "received": received,
            "attempt": 1,
        }
        found.append(line)
    return found


# -- handshakes --


class Conversation:
    """Both sides of one sealed connection with fixed ephemeral keys, after their handshake."""

    def __init__(self, ephemeral: tuple[int, int], pattern: Pattern = Pattern.NK) -> None:
        if pattern is Pattern.NK:
            self.fields = handshake_fields(pattern, SERVER_KEY.key_id, 0, 0)
        else:
            self.fields = handshake_fields(pattern, CLUSTER_KEY.key_id, OTHER_SERVER_ID, SERVER_ID)
        agreed, psk = prologue(self.fields), CLUSTER_KEY.psk
        client = HandshakeState(pattern, True, agreed, rs=SERVER_KEY.public, psk=psk, e=private(ephemeral[0]))
        server = HandshakeState(pattern, False, agreed, s=SERVER_KEY.private, psk=psk, e=private(ephemeral[1]))
        self.payloads = encode_control(HELLO), encode_control(HELLO.answer(FEATURES))
        first = client.write_message(self.payloads[0])
        server.read_message(first)
        second = server.write_message(self.payloads[1])
        client.read_message(second)
        self.messages = first, second
        self.frames = (
            encode_control_frame(bytes([ControlType.HANDSHAKE]) + self.fields + first),
            encode_control_frame(encode_control(HandshakeAnswer(second))),
        )
        self.handshake_hash = client.handshake_hash
        self.keys = transport_keys(client)
        self.client = SecureStream(*client.split())
        self.server = SecureStream(*server.split())
        self.steps: list[Line] = [
            {"from": "client", "what": "HANDSHAKE", "bytes": self.frames[0].hex()},
            {"from": "server", "what": "HANDSHAKE", "bytes": self.frames[1].hex()},
        ]

    def say(self, side: str, what: str, plaintext: bytes) -> None:
        """The next step: one sealed record from `side`."""
        stream = self.client if side == "client" else self.server
        record = stream.seal(plaintext)
        self.steps.append({"from": side, "what": what, "plaintext": plaintext.hex(), "bytes": record.hex()})


def transport_keys(state: HandshakeState) -> tuple[bytes, bytes]:
    """The initiator's and the responder's sending key, as `split` makes them."""
    key = hmac.digest(state._symmetric.ck, b"", "sha256")
    first = hmac.digest(key, b"\x01", "sha256")
    return first, hmac.digest(key, first + b"\x02", "sha256")


def handshake_line(pattern: Pattern) -> Line:
    made = Conversation(EPHEMERAL, pattern)
    nk = pattern is Pattern.NK
    keys = {"server_private": SERVER_KEY.to_hex(), "server_public": SERVER_KEY.public.hex()}
    return {
        "kind": "handshake",
        "name": "NK" if nk else "NNpsk0",
        "note": "a client and a server" if nk else "two servers of a cluster",
        "protocol": f"Noise_{'NK' if nk else 'NNpsk0'}_25519_AESGCM_SHA256",
        **(keys if nk else {"psk": CLUSTER_KEY.to_hex()}),
        "key_id": (SERVER_KEY if nk else CLUSTER_KEY).key_id.hex(),
        "from": 0 if nk else OTHER_SERVER_ID,
        "to": 0 if nk else SERVER_ID,
        "prologue": prologue(made.fields).hex(),
        "initiator_ephemeral": (bytes([EPHEMERAL[0]]) * 32).hex(),
        "responder_ephemeral": (bytes([EPHEMERAL[1]]) * 32).hex(),
        "payloads": [payload.hex() for payload in made.payloads],
        "messages": [message.hex() for message in made.messages],
        "frames": [frame.hex() for frame in made.frames],
        "handshake_hash": made.handshake_hash.hex(),
        "initiator_key": made.keys[0].hex(),
        "responder_key": made.keys[1].hex(),
        "records": [
            {"from": side, "plaintext": plaintext.hex(), "bytes": stream.seal(plaintext).hex()}
            for side, stream in (("initiator", made.client), ("responder", made.server))
            for plaintext in (b"first", b"second")
        ],
    }


# -- transcripts --


def transcript_keys() -> Line:
    return {
        "server_private": SERVER_KEY.to_hex(),
        "server_public": SERVER_KEY.public.hex(),
        "resume_key": RESUME_KEY.hex(),
    }


def connection(made: Conversation, ephemeral: tuple[int, int]) -> Line:
    return {
        "client_ephemeral": (bytes([ephemeral[0]]) * 32).hex(),
        "server_ephemeral": (bytes([ephemeral[1]]) * 32).hex(),
        "handshake_hash": made.handshake_hash.hex(),
        "steps": made.steps,
    }


def log_in(made: Conversation) -> None:
    """The steps up to the server's first message."""
    encode, _ = BINARY.bind(ClientVerifyRequest)
    made.say("client", "ClientVertifyReq", encode_frame(VERIFY_REQUEST, encode(ClientVerifyRequest(0, UID, TOKEN))))
    encode, _ = BINARY.bind(ClientVerifySucceeded)
    verdict = encode_frame(VERIFY_SUCCEEDED, encode(ClientVerifySucceeded(0, UID, SERVER_ID, 0)))
    ticket = frame(Ticket(SESSION_ID, RESUME_KEY, WINDOW, ""))
    made.say("server", "ClientVertifySucceedRet, TICKET", verdict + ticket)
    made.say("client", "message", encode_frame(*SAY))
    made.say("server", "message", encode_frame(*REPLY))


def session() -> Line:
    """One connection: log in, a message each way, acknowledged, and the end."""
    made = Conversation(EPHEMERAL)
    log_in(made)
    made.say("server", "ACK", frame(Ack(1)))
    made.say("client", "ACK", frame(Ack(1)))
    made.say("client", "CLOSE", frame(Close(CloseCode.NORMAL)))
    return connection(made, EPHEMERAL)


def resumed_session() -> list[Line]:
    """Two connections: the first breaks before the server's message arrives, which is sent again on the second."""
    first = Conversation(EPHEMERAL)
    log_in(first)
    first.steps[-1]["lost"] = True
    second = Conversation(EPHEMERAL_AGAIN)
    proof = second.handshake_hash
    second.say("client", "RESUME", frame(resume(RESUME_KEY, proof, SESSION_ID, 0, 1)))
    answer = frame(resumed(RESUME_KEY, proof, SESSION_ID, 1, 1))
    second.say("server", "RESUMED, the message again", answer + encode_frame(*REPLY))
    second.say("client", "CLOSE", frame(Close(CloseCode.NORMAL)))
    return [connection(first, EPHEMERAL), connection(second, EPHEMERAL_AGAIN)]


def frame(record: Control) -> bytes:
    return encode_control_frame(encode_control(record))


def text() -> str:
    """The file."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines())


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
