"""Any payload: a control record that encodes to the same bytes, None if it must be ignored, or a ProtocolError."""

from fuzz.harness import main
from gatelink.errors import ProtocolError
from gatelink.wire.control import (
    VERSION,
    Control,
    Features,
    HandshakeAnswer,
    Hello,
    decode_control,
    encode_control,
)
from gatelink.wire.handshake import check_answer

FIRST_IGNORED = 128


def check(payload: bytes) -> None:
    for handshake_answer in (False, True):
        try:
            record = decode_control(payload, handshake_answer=handshake_answer)
        except ProtocolError:
            continue
        if record is None:
            assert payload[0] >= FIRST_IGNORED, "a known record is ignored"
        elif isinstance(record, Hello):
            check_hello(record)
        else:
            assert encode_control(record) == payload, f"{record} was other bytes"
            assert isinstance(record, HandshakeAnswer) <= handshake_answer


def check_hello(hello: Hello) -> None:
    """Unknown keys of a HELLO are dropped; the rest stays, and the HELLO can be answered."""
    again: Control | None = decode_control(encode_control(hello))
    assert again == hello, f"{hello} became {again}"
    for features in (0, Features.PING, Features.PING | Features.RESUME):
        answer = check_answer(hello, hello.answer(features))
        assert 1 <= answer.version <= VERSION and not answer.features & ~features, f"{hello} answered with {answer}"


if __name__ == "__main__":
    main(check)
