"""docs/vectors/extension.jsonl: what the code makes, and what a reader with nothing but the documents finds in it.

But for the two tests of our own code, nothing here comes from gatelink: frames and records are taken apart by hand, and
the handshakes and sealed records are PyPI's `noiseprotocol`.
"""

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from noise.connection import Keypair, NoiseConnection

from gatelink.errors import ProtocolError
from gatelink.session.requests import Requests
from gatelink.wire.control import decode_control, encode_control
from gatelink.wire.frames import ALL_FLAGS, FrameDecoder
from tests.vectors import make_extension

Vector = dict[str, Any]

PATH = Path(__file__).parents[3] / "docs" / "vectors" / "extension.jsonl"
VECTORS: list[Vector] = [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]

MESSAGE, SEALED, CONTROL = 0x00, 0x04, 0x80
TYPES = {
    1: ("HELLO", []),  # by hand
    3: ("TICKET", [("session_id", "16s"), ("resume_key", "32s"), ("window", "I"), ("address", "text")]),
    4: ("RESUME", [("session_id", "16s"), ("received", "Q"), ("attempt", "I"), ("mac", "32s")]),
    5: ("RESUMED", [("received", "Q"), ("mac", "32s")]),
    6: ("PING", [("sent_at", "Q"), ("received", "Q")]),
    7: ("PONG", [("sent_at", "Q"), ("received", "Q"), ("server_time", "Q")]),
    8: ("ACK", [("received", "Q")]),
    9: ("CLOSE", [("code", "H"), ("reason", "text")]),
    10: ("GOAWAY", [("reconnect_within", "I"), ("address", "text")]),
    11: ("RENEW", [("token", "text")]),
    12: ("RENEWED", [("result", "B"), ("expires_in", "I")]),
    13: ("EXPIRING", [("seconds", "I")]),
    14: ("LOST", [("type", "B"), ("to_server", "I"), ("to_client", "I")]),
}


def of_kind(kind: str) -> list[Vector]:
    return [vector for vector in VECTORS if vector["kind"] == kind]


def every(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", of_kind(kind), ids=lambda v: f"{v.get('name', '')} {v.get('note', '')}")


def split_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(flags, payload) of each frame in `data`."""
    while data:
        length, flags = int.from_bytes(data[:3], "little"), data[3]
        assert len(data) >= 4 + length
        yield flags, data[4 : 4 + length]
        data = data[4 + length :]


def only_frame(data: bytes, flags: int) -> bytes:
    """The payload of the one frame in `data`, which has these flags."""
    [(found, payload)] = split_frames(data)
    assert found == flags
    return payload


def read_control(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The name and fields of a control record, bytes as hex."""
    name, layout = TYPES[payload[0]]
    if name == "HELLO":
        return name, read_hello(payload)
    fields: dict[str, Any] = {}
    at = 1
    for field, format in layout:
        if format == "text":
            size = int.from_bytes(payload[at : at + 2], "little")
            fields[field] = payload[at + 2 : at + 2 + size].decode()
            at += 2 + size
        else:
            (value,) = struct.unpack_from("<" + format, payload, at)
            fields[field] = value.hex() if isinstance(value, bytes) else value
            at += struct.calcsize("<" + format)
    assert at == len(payload)
    return name, fields


def read_hello(payload: bytes) -> dict[str, Any]:
    version, features, count = struct.unpack_from("<BQB", payload, 1)
    values = {}
    at = 11
    for _ in range(count):
        key, size = struct.unpack_from("<BH", payload, at)
        values[key] = payload[at + 3 : at + 3 + size]
        at += 3 + size
    assert at == len(payload)
    slot, app_version = values.get(1, b"\0"), values.get(2, b"")
    return {"version": version, "features": features, "slot": slot[0], "app_version": app_version.decode()}


def mac(resume_key: str, label: str, handshake_hash: str, session_id: str, received: int, attempt: int) -> str:
    message = label.encode() + bytes.fromhex(handshake_hash + session_id) + struct.pack("<QI", received, attempt)
    return hmac.new(bytes.fromhex(resume_key), message, hashlib.sha256).hexdigest()


def noise(vector: Vector, initiator: bool, ephemeral: str, prologue: bytes) -> Any:
    """One side of a handshake, with its keys and its fixed ephemeral one."""
    side = NoiseConnection.from_name(vector.get("protocol", "Noise_NK_25519_AESGCM_SHA256").encode())
    (side.set_as_initiator if initiator else side.set_as_responder)()
    side.set_prologue(prologue)
    if "psk" in vector:
        side.set_psks(psk=bytes.fromhex(vector["psk"]))
    elif initiator:
        side.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, bytes.fromhex(vector["server_public"]))
    else:
        side.set_keypair_from_private_bytes(Keypair.STATIC, bytes.fromhex(vector["server_private"]))
    side.set_keypair_from_private_bytes(Keypair.EPHEMERAL, bytes.fromhex(ephemeral))
    with pytest.warns(UserWarning, match="ephemeral keypairs"):  # fixed ones are for vectors alone
        side.start_handshake()
    return side


# -- our own code --


def test_the_file_is_what_the_code_makes() -> None:
    again = "python -m tests.vectors.make_extension writes it again; a client in the field has the old one"
    assert PATH.read_text("utf-8") == make_extension.text(), again


@every("refused")
def test_what_is_refused_is_a_protocol_error(vector: Vector) -> None:
    with pytest.raises(ProtocolError):
        decode_control(only_frame(bytes.fromhex(vector["frame"]), CONTROL))


@every("control")
def test_our_decoder_reads_the_fields_and_writes_the_frame(vector: Vector) -> None:
    payload = only_frame(bytes.fromhex(vector["frame"]), CONTROL)
    record = decode_control(payload)
    assert record is not None and make_extension.plain(record) == vector["fields"]
    assert encode_control(record) == payload or vector["fields"]["version"] == 2


# -- from the documents alone --


def test_every_record_has_a_vector() -> None:
    found = {vector["name"] for vector in of_kind("control") + of_kind("proof")}
    assert found == {name for name, _ in TYPES.values()}
    assert {vector["name"] for vector in of_kind("handshake")} == {"NK", "NNpsk0"}
    assert {vector["name"] for vector in of_kind("transcript")} == {"session", "resume"}


@every("control")
def test_a_control_record_has_its_fields(vector: Vector) -> None:
    payload = only_frame(bytes.fromhex(vector["frame"]), CONTROL)
    assert read_control(payload) == (vector["name"], vector["fields"])


@pytest.mark.parametrize("vector", [v for kind in ("request", "answer", "failed") for v in of_kind(kind)])
def test_a_request_its_answer_and_its_failure_have_their_fields(vector: Vector) -> None:
    flags = {"request": 0x08, "answer": 0x10, "failed": 0x18}[vector["kind"]]
    payload = only_frame(bytes.fromhex(vector["frame"]), flags)
    id, tag = struct.unpack_from("<HI", payload)
    found: dict[str, Any] = {"id": id, "tag": tag}
    if flags == 0x18:
        code, detail, size = struct.unpack_from("<HIH", payload, 6)
        found |= {"code": code, "detail": detail, "reason": payload[14:].decode()}
        assert size == len(payload) - 14
    else:
        assert payload[6:] == {11_001: b"hello", 11_002: b"hello back"}[id]
    assert found == vector["fields"]


@every("refused-request")
def test_a_bad_request_or_answer_is_a_protocol_error(vector: Vector) -> None:
    decoder = FrameDecoder(1_000)
    decoder.allowed = ALL_FLAGS
    frames = decoder.feed(bytes.fromhex(vector["frame"]))
    assert (decoder.error is None) == bool(frames)
    peer: Any = SimpleNamespace()
    for frame in frames:
        with pytest.raises(ProtocolError):
            Requests().take(peer, frame)


@every("ignored")
def test_what_is_ignored_is_of_a_type_from_128_on(vector: Vector) -> None:
    payload = only_frame(bytes.fromhex(vector["frame"]), CONTROL)
    assert payload[0] >= 128
    assert decode_control(payload) is None


@every("proof")
def test_a_proof_is_the_mac_of_what_it_says(vector: Vector) -> None:
    payload = only_frame(bytes.fromhex(vector["frame"]), CONTROL)
    assert read_control(payload) == (vector["name"], vector["fields"])
    assert mac(**vector["mac_of"]) == vector["fields"]["mac"]
    assert vector["mac_of"]["received"] == vector["fields"]["received"]


@every("handshake")
def test_a_handshake_step_by_step(vector: Vector) -> None:
    if "psk" in vector:
        named = hashlib.sha256(b"gatelink psk id" + bytes.fromhex(vector["psk"]))
    else:
        public = X25519PrivateKey.from_private_bytes(bytes.fromhex(vector["server_private"])).public_key()
        assert public.public_bytes_raw().hex() == vector["server_public"]
        named = hashlib.sha256(bytes.fromhex(vector["server_public"]))
    assert named.digest()[:4].hex() == vector["key_id"]

    pattern = {"NK": 1, "NNpsk0": 2}[vector["name"]]
    fields = struct.pack("<B4sQQ", pattern, named.digest()[:4], vector["from"], vector["to"])
    assert (b"gatelink/1" + fields).hex() == vector["prologue"]
    first, second = (bytes.fromhex(message) for message in vector["messages"])
    assert only_frame(bytes.fromhex(vector["frames"][0]), CONTROL) == b"\2" + fields + first
    assert only_frame(bytes.fromhex(vector["frames"][1]), CONTROL) == b"\2" + second

    initiator = noise(vector, True, vector["initiator_ephemeral"], b"gatelink/1" + fields)
    responder = noise(vector, False, vector["responder_ephemeral"], b"gatelink/1" + fields)
    hello, answer = (bytes.fromhex(payload) for payload in vector["payloads"])
    assert read_control(hello)[0] == read_control(answer)[0] == "HELLO"
    assert initiator.write_message(hello) == first
    assert responder.read_message(first) == hello
    assert responder.write_message(answer) == second
    assert initiator.read_message(second) == answer
    assert initiator.get_handshake_hash().hex() == responder.get_handshake_hash().hex() == vector["handshake_hash"]

    counts = {"initiator": 0, "responder": 0}
    for record in vector["records"]:
        side, plaintext = record["from"], bytes.fromhex(record["plaintext"])
        sealed = only_frame(bytes.fromhex(record["bytes"]), SEALED)
        nonce = bytes(4) + counts[side].to_bytes(8, "big")
        assert AESGCM(bytes.fromhex(vector[f"{side}_key"])).encrypt(nonce, plaintext, b"") == sealed
        writer, reader = (initiator, responder) if side == "initiator" else (responder, initiator)
        assert writer.encrypt(plaintext) == sealed
        assert reader.decrypt(sealed) == plaintext
        counts[side] += 1
    assert counts == {"initiator": 2, "responder": 2}


class Walk:
    """A transcript's connection, walked with another Noise library on both sides: every byte is made again."""

    def __init__(self, vector: Vector, connection: Vector) -> None:
        self.steps: list[Vector] = connection["steps"]
        first = only_frame(bytes.fromhex(self.steps[0]["bytes"]), CONTROL)
        second = only_frame(bytes.fromhex(self.steps[1]["bytes"]), CONTROL)
        assert first[0] == second[0] == 2
        prologue = b"gatelink/1" + first[1:22]
        client = noise(vector, True, connection["client_ephemeral"], prologue)
        server = noise(vector, False, connection["server_ephemeral"], prologue)
        hello = bytes(server.read_message(first[22:]))
        assert client.write_message(hello) == first[22:]
        assert server.write_message(bytes(client.read_message(second[1:]))) == second[1:]
        self.handshake_hash: str = client.get_handshake_hash().hex()
        assert self.handshake_hash == connection["handshake_hash"]
        self.sides = {"client": (client, server), "server": (server, client)}

    def frames(self) -> Iterator[tuple[str, int, bytes]]:
        """(from, flags, payload) of every frame inside of the sealed records."""
        for step in self.steps[2:]:
            writer, reader = self.sides[step["from"]]
            sealed = only_frame(bytes.fromhex(step["bytes"]), SEALED)
            plaintext = bytes.fromhex(step["plaintext"])
            assert writer.encrypt(plaintext) == sealed and reader.decrypt(sealed) == plaintext
            for flags, payload in split_frames(plaintext):
                yield step["from"], flags, payload


def said(walk: Walk) -> list[tuple[str, str, Any]]:
    """(from, what, its fields or body) of everything in a connection."""
    found: list[tuple[str, str, Any]] = []
    for side, flags, payload in walk.frames():
        if flags == CONTROL:
            found.append((side, *read_control(payload)))
        else:
            assert flags == MESSAGE
            found.append((side, str(int.from_bytes(payload[:2], "little")), payload[2:]))
    return found


LOGIN = [
    ("client", "1", struct.pack("<BQH", 0, 7, 32) + b"0" * 31 + b"7"),
    ("server", "2", struct.pack("<BQQB", 0, 7, 9_001, 0)),
    (
        "server",
        "TICKET",
        {"session_id": "08" * 16, "resume_key": "07" * 32, "window": 120, "address": ""},
    ),
    ("client", "11001", b"hello"),
    ("server", "11002", b"hello back"),
]
BYE = ("client", "CLOSE", {"code": 4_000, "reason": ""})


def transcript(name: str) -> tuple[Vector, list[Walk]]:
    [vector] = [vector for vector in of_kind("transcript") if vector["name"] == name]
    return vector, [Walk(vector, connection) for connection in vector["connections"]]


def test_a_whole_session_step_by_step() -> None:
    _, [walk] = transcript("session")
    acks = [("server", "ACK", {"received": 1}), ("client", "ACK", {"received": 1})]
    assert said(walk) == [*LOGIN, *acks, BYE]


def test_a_resumed_session_step_by_step() -> None:
    vector, [first, second] = transcript("resume")
    assert said(first) == LOGIN
    assert [step["what"] for step in first.steps if step.get("lost")] == ["message"]

    def proof(label: str, received: int) -> str:
        return mac(vector["resume_key"], f"gatelink resume {label}", second.handshake_hash, "08" * 16, received, 1)

    assert said(second) == [
        ("client", "RESUME", {"session_id": "08" * 16, "received": 0, "attempt": 1, "mac": proof("c", 0)}),
        ("server", "RESUMED", {"received": 1, "mac": proof("s", 1)}),
        ("server", "11002", b"hello back"),
        BYE,
    ]
