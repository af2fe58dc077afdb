"""Any bytes in: a part of them or a documented error, the same whole or byte by byte; what is held is one header."""

from fuzz.harness import main
from gatelink.wire.websocket import WebSocketStream

LIMIT = 300


def check(data: bytes) -> None:
    for is_client in (False, True):
        whole = WebSocketStream(LIMIT, is_client)
        taken = whole.feed(data)
        assert len(taken) <= len(data), "bytes are made up"

        slow = WebSocketStream(LIMIT, is_client)
        bytewise = b"".join(slow.feed(data[at : at + 1]) for at in range(len(data)))
        assert bytewise == taken, "byte by byte gives other bytes"
        assert repr(slow.error) == repr(whole.error), "byte by byte gives another error"
        assert (slow.status, slow.small) == (whole.status, whole.small), "byte by byte counts differently"
        if not is_client:
            assert slow.pong == whole.pong, "byte by byte gives another pong"
        assert whole.error is None or whole.status is None, "both a close frame and an error"
        if whole.error is not None or whole.status is not None:
            assert whole.feed(b"\x82\x01a\x82\x81\0\0\0\0a") == b"", "it goes on after its end"


if __name__ == "__main__":
    main(check)
