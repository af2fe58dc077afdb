"""Frames of the original Go encoder: what deployed clients send decodes, and what they are sent has the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from gatelink.config import WireOptions
from gatelink.wire.base import (
    ClientVerifyFailed,
    ClientVerifyRequest,
    ClientVerifySucceeded,
    DuplicateLogin,
    HeartBeat,
)
from gatelink.wire.body import BodyCoder, Scrambler, compress
from gatelink.wire.codecs import U32
from gatelink.wire.frames import COMPRESSED, SCRAMBLED, FrameDecoder, encode_frame
from gatelink.wire.messages import Catalog

PATH = Path(__file__).parents[2] / "vectors" / "base.jsonl"
VECTORS: list[dict[str, Any]] = [json.loads(line) for line in PATH.read_text("utf-8").splitlines()]
LIMIT = 1_024

every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['name']}-{v['flags']}")

CATALOG = Catalog()


@CATALOG.message(8, codec="binary")
class TestBinMsg(Struct):
    __test__ = False
    state: U32


def expected(vector: dict[str, Any]) -> Struct:
    fields = vector["fields"]
    match vector["name"]:
        case "ClientVertifyReq":
            token = bytes.fromhex(fields["Token_hex"]).decode("utf-8", "surrogateescape")
            return ClientVerifyRequest(fields["Source"], fields["UID"], token)
        case "ClientVertifySucceedRet":
            return ClientVerifySucceeded(fields["Source"], fields["UID"], fields["SourceID"], fields["Type"])
        case "ClientVertifyFailedRet":
            return ClientVerifyFailed()
        case "HeartBeat":
            return HeartBeat()
        case "UserDuplicateLoginNotify":
            return DuplicateLogin()
        case "TestBinMsg":
            return TestBinMsg(fields["State"])
        case name:
            raise AssertionError(f"unknown message {name} in {PATH.name}")


def decode(frame: bytes) -> tuple[str, Any]:
    """The wire name and the message of one whole frame."""
    [(id, flags, body)] = FrameDecoder(LIMIT).feed(frame)
    kind = CATALOG.by_id[id]
    return kind.name, kind.decode(BodyCoder(WireOptions()).open(flags, body, LIMIT))


def test_the_vectors_cover_every_base_message_with_all_flags() -> None:
    found = {(vector["id"], vector["flags"]) for vector in VECTORS}
    assert found == {(id, flags) for id in CATALOG.by_id for flags in range(4)}


@every_vector
def test_a_frame_decodes_to_its_fields(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["frame"])) == (vector["name"], expected(vector))


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["flags"] in (0, SCRAMBLED)], ids=lambda v: v["name"])
def test_a_message_encodes_to_the_originals_bytes(vector: dict[str, Any]) -> None:
    coder = BodyCoder(WireOptions(scramble=vector["flags"] == SCRAMBLED))
    kind, body = CATALOG.encode(expected(vector))
    flags, body = coder.close(kind, body)
    assert encode_frame(kind.id, body, flags).hex() == vector["frame"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["flags"] & COMPRESSED], ids=lambda v: v["name"])
def test_a_compressed_message_decodes_as_the_originals_does(vector: dict[str, Any]) -> None:
    kind, body = CATALOG.encode(expected(vector))
    body = compress(body)
    if vector["flags"] & SCRAMBLED:
        body = Scrambler(WireOptions().scramble_key).scramble(body)
    assert decode(encode_frame(kind.id, body, vector["flags"])) == decode(bytes.fromhex(vector["frame"]))


# -- what this side chooses to send --


class Chat(bytes):
    pass


CHAT = Catalog().add(11_001, Chat)
SECRET = Catalog().add(11_001, Chat, compress=False)


@pytest.mark.parametrize("scramble", [False, True])
@pytest.mark.parametrize("body", [b"", b"a", bytes(99), bytes(100), bytes(range(256)), bytes(5_000)], ids=len)
def test_what_is_closed_opens(body: bytes, scramble: bool) -> None:
    coder = BodyCoder(WireOptions(compress_over=100, scramble=scramble))
    flags, closed = coder.close(CHAT, body)
    assert flags & SCRAMBLED == (SCRAMBLED if scramble else 0)
    assert coder.open(flags, closed, len(body)) == body


def test_bodies_are_compressed_from_the_chosen_size_and_only_where_it_helps() -> None:
    coder = BodyCoder(WireOptions(compress_over=100))
    assert coder.close(CHAT, bytes(99)) == (0, bytes(99))
    assert coder.close(CHAT, bytes(100))[0] == COMPRESSED
    assert len(coder.close(CHAT, bytes(100))[1]) < 100
    assert coder.close(CHAT, bytes(range(256))) == (0, bytes(range(256)))
    assert BodyCoder(WireOptions()).close(CHAT, bytes(5_000)) == (0, bytes(5_000))


def test_base_messages_and_secrets_are_never_compressed() -> None:
    coder = BodyCoder(WireOptions(compress_over=1))
    kind, body = CATALOG.encode(ClientVerifyRequest(0, 1, "0" * 500))
    assert coder.close(kind, body) == (0, body)
    assert coder.close(SECRET, bytes(5_000)) == (0, bytes(5_000))


def test_the_repr_of_a_request_does_not_hold_its_token() -> None:
    assert repr(ClientVerifyRequest(0, 7, "hunter2")) == "ClientVerifyRequest(source=0, uid=7, token=<7 characters>)"
