"""Any body with any flags: within the limit, and a message that survives writing it again; else a documented error.

The first byte is the frame's flags, the second chooses the message type; the rest is the body.
"""

from typing import Any

from google.protobuf.struct_pb2 import Value
from msgspec import Struct

from fuzz.harness import main
from gatelink.config import WireOptions
from gatelink.errors import BodyError, FrameTooLarge
from gatelink.wire.base import BASE_MESSAGES
from gatelink.wire.body import BodyCoder
from gatelink.wire.codecs import F32, F64, I16, U8, U64
from gatelink.wire.messages import Catalog, MessageType

LIMIT = 500
CATALOG = Catalog()


@CATALOG.message(11_001, codec="binary")
class Everything(Struct):
    flag: bool
    small: U8
    text: str
    signed: I16
    single: F32
    double: F64
    data: bytes
    large: U64


class Tree(Struct):
    name: str
    leaves: dict[str, list[int]]
    branches: "list[Tree]"
    number: float | None = None


class JsonTree(Struct):
    name: str
    leaves: dict[str, list[int]]
    branches: "list[JsonTree]"
    number: float | None = None


CATALOG.add(11_002, Tree)
CATALOG.add(11_003, JsonTree, codec="json")
CATALOG.add(11_004, Value)
KINDS: list[MessageType] = [CATALOG.by_id[id] for id in sorted(CATALOG.by_id)]
IS_BINARY = {id for id, _, _ in BASE_MESSAGES} | {11_001}
CODERS = [
    BodyCoder(WireOptions(compress_over=over, scramble=scramble)) for over in (0, 1) for scramble in (False, True)
]


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    flags, kind = data[0] & 3, KINDS[data[1] % len(KINDS)]
    try:
        body = CODERS[0].open(flags, data[2:], LIMIT)
    except (BodyError, FrameTooLarge):
        return
    assert len(body) <= LIMIT or not flags & 1, f"{len(body)} bytes decompressed; the limit was {LIMIT}"
    for coder in CODERS:
        assert coder.open(*coder.close(kind, body), len(body)) == body, "a body does not survive"
    check_codec(kind, body)


def check_codec(kind: MessageType, body: bytes) -> None:
    try:
        message: Any = kind.decode(body)
    except Exception as error:  # a codec may raise anything, but the one that is ours says what
        assert kind.id not in IS_BINARY or isinstance(error, BodyError), f"{kind.name}: {error!r}"
        return
    written = kind.encode(message)
    assert kind.encode(kind.decode(written)) == written, f"{message} does not survive"
    if kind.id in IS_BINARY and kind.type is not Everything:  # which has a bool and floats, where bytes may differ
        assert body.startswith(written), f"{message} was other bytes"  # what stands behind the fields is skipped


if __name__ == "__main__":
    main(check)
