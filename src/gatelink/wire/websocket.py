"""WebSocket framing (RFC 6455): bytes in chunks of any size in, the payload of binary messages out, and back.

The payloads together are the byte stream of the protocol, so a message's borders mean nothing. Only what RFC 6455 says
of messages is checked here. Nothing is kept of a frame but an incomplete header: its payload is passed on as it comes.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Final

from gatelink._native import compiled
from gatelink.errors import CloseCode, ProtocolError

MAX_CONTROL = 125  # bytes of payload of a control frame, by section 5.5
MAX_WRITTEN = 1_048_576
"""Bytes in one message of ours; what a write has more goes in further ones."""

SMALL = 6
"""Bytes that the smallest frame of the inner stream takes. A WebSocket frame with fewer is counted in `small`."""

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_RESERVED = 0x70
_WHOLE_BINARY = _FIN | _BINARY
_HEADERS = [bytes((_WHOLE_BINARY, size)) for size in range(126)]
_NO_KEY = bytes(4)


class Status:
    """The status codes of close frames that are not the protocol's own (section 7.4.1)."""

    NORMAL: Final = 1000
    PROTOCOL: Final = 1002
    NOT_BINARY: Final = 1003
    NONE: Final = 1005
    """Never sent: the peer's close frame had no code."""
    NOT_UTF8: Final = 1007
    POLICY: Final = 1008
    TOO_BIG: Final = 1009


class WebSocketError(ProtocolError):
    """The peer broke RFC 6455, or sent what we do not take. status: the code of our close frame."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        if status == Status.TOO_BIG:
            self.code = CloseCode.FRAME_TOO_LARGE
        elif status == Status.POLICY:
            self.code = CloseCode.RATE_LIMITED
        super().__init__(text)


def mask_in_python(data: bytes, key: bytes) -> bytes:
    """`data` masked or unmasked with the four bytes of `key` (section 5.3); 2 to 3 ns a byte."""
    size = len(data)
    keys = (key * ((size + 3) >> 2))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


mask: Callable[[bytes, bytes], bytes] = mask_in_python
"""As `mask_in_python`; with the extra `websocket` in C, for 0.03 ns a byte."""

with contextlib.suppress(ImportError):
    from websockets.speedups import apply_mask

    mask = apply_mask


@compiled
def whole_messages(data: bytes, at: int, max_message: int, payloads: list[bytes]) -> tuple[int, int]:
    """Append the payloads of the messages at `at` that are whole, masked and under 64 KiB, as most are.

    Returns where the last one ends, and how many are small. `WebSocketStream` alone would do the same in three times
    the time.
    """
    end = len(data)
    small = 0
    while end - at > 8 and data[at] == _WHOLE_BINARY:
        size = data[at + 1] - 128
        start = at + 6
        if size == 126:
            size = data[at + 2] << 8 | data[at + 3]
            start = at + 8
            if size < 126:
                break
        if not 0 < size <= max_message or start + size > end or data[at + 1] == 0xFF:
            break
        if size < SMALL:
            small += 1
        at = start + size
        payloads.append(mask(data[start:at], data[start - 4 : start]))
    return at, small


class WebSocketStream:
    """One connection's WebSocket framing after the upgrade.

    is_client: whether this side masks, and its peer does not. max_message: the largest sum of a message's fragments, in
    bytes; it may change between calls of `feed`.
    error: the first violation. status: the code of the peer's close frame, once that has come; 1005 if it had none.
    After either `feed` returns nothing more. pong: the frame that answers the last ping, to be sent; the caller takes
    it. small: how many frames came that carry less than the smallest frame of the inner stream; the caller bounds that.
    """

    __slots__ = (
        "_control",
        "_head",
        "_is_open",
        "_key",
        "_left",
        "_opcode",
        "_size",
        "error",
        "is_client",
        "max_message",
        "pong",
        "small",
        "status",
    )

    def __init__(self, max_message: int, is_client: bool = False) -> None:
        self.is_client = is_client
        self.max_message = max_message
        self.error: WebSocketError | None = None
        self.status: int | None = None
        self.pong = b""
        self.small = 0
        self._head = b""  # the beginning of a header
        self._left = 0  # bytes that the payload of the current frame still has
        self._key = _NO_KEY  # of the current frame, for the next byte of its payload
        self._opcode = _CONTINUATION  # of the current frame
        self._is_open = False  # whether more fragments of a message are due
        self._size = 0  # bytes that the fragments of the current message declared so far
        self._control = b""  # the payload of the current control frame

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; return the joined payloads of binary messages in them."""
        size = len(data)
        # The short path: exactly one whole message, masked, of a length that the second byte holds.
        if (
            size > 6
            and data[0] == _WHOLE_BINARY
            and data[1] == size + 122  # 128 for the mask, and 6 bytes of header
            and size < 132
            and not (self.is_client or self._head or self._left or self._is_open)
            and self.error is None
            and self.status is None
        ):
            if size < SMALL + 6:
                self.small += 1
            return mask(data[6:], data[2:6])
        if self.error is not None or self.status is not None:
            return b""
        if self._head:
            data = self._head + data
            self._head = b""
        payloads: list[bytes] = []
        try:
            self._walk(data, payloads)
        except WebSocketError as error:
            self.error = error
        return payloads[0] if len(payloads) == 1 else b"".join(payloads)

    def wrap(self, data: bytes) -> bytes:
        """One binary message with `data`; several for more than 1 MiB."""
        size = len(data)
        if not self.is_client:
            if size < 126:
                return _HEADERS[size] + data
            if size < 65_536:
                return b"\x82\x7e" + size.to_bytes(2, "big") + data
        if size <= MAX_WRITTEN:
            return self._frame(_BINARY, data)
        return b"".join(self._frame(_BINARY, data[at : at + MAX_WRITTEN]) for at in range(0, size, MAX_WRITTEN))

    def close_frame(self, status: int) -> bytes:
        """Our close frame; for 1005 one without a code."""
        return self._frame(_CLOSE, b"" if status == Status.NONE else status.to_bytes(2, "big"))

    def _frame(self, opcode: int, data: bytes) -> bytes:
        size = len(data)
        masked = 0x80 if self.is_client else 0
        if size < 126:
            header = bytes((_FIN | opcode, masked | size))
        elif size < 65_536:
            header = bytes((_FIN | opcode, masked | 126)) + size.to_bytes(2, "big")
        else:
            header = bytes((_FIN | opcode, masked | 127)) + size.to_bytes(8, "big")
        if not masked:
            return header + data
        key = os.urandom(4)
        return header + key + mask(data, key)

    def _walk(self, data: bytes, payloads: list[bytes]) -> None:
        """Go through `data` and append the payloads of binary frames. Raises WebSocketError."""
        at = 0
        end = len(data)
        while at < end:
            if not (self._left or self._is_open or self.is_client):
                at = self._whole_messages(data, at, payloads)
                if at == end:
                    return
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                self._take(part, payloads)
            else:
                start = self._header(data, at)
                if not start:
                    self._head = data[at:]
                    return
                at = start
            if not self._left and self._opcode >= _CLOSE:
                self._control_ends()
                if self.status is not None:
                    return

    def _whole_messages(self, data: bytes, at: int, payloads: list[bytes]) -> int:
        """Append the payloads of the simple messages at `at`. Returns where the last one ends."""
        end, small = whole_messages(data, at, self.max_message, payloads)
        self.small += small
        return end

    def _header(self, data: bytes, at: int) -> int:
        """Read the header at `at`; return where it ends, 0 if it is not whole. Raises WebSocketError."""
        if len(data) - at < 2:
            return 0
        first, second = data[at], data[at + 1]
        is_masked = second >= 0x80
        size = second & 0x7F
        opcode = first & 0x0F
        self._check_start(first, opcode, is_masked, size)
        end = at + 2
        if size >= 126:
            long = 2 if size == 126 else 8
            if len(data) < end + long:
                return 0
            declared = int.from_bytes(data[end : end + long], "big")
            if declared < (126 if long == 2 else 65_536) or declared >= 2**63:
                raise WebSocketError(f"a length of {declared} in {long} bytes; use the shortest form", Status.PROTOCOL)
            size = declared
            end += long
        if opcode < _CLOSE:
            before = self._size if opcode == _CONTINUATION else 0
            if before + size > self.max_message:
                text = f"a WebSocket message of {before + size} bytes is over {self.max_message}"
                raise WebSocketError(text, Status.TOO_BIG)
        if is_masked:
            if len(data) < end + 4:
                return 0
            self._key = data[end : end + 4]
            end += 4
        # The header is whole: only now anything changes.
        if opcode < _CLOSE:
            self._size = before + size
            self._is_open = first < _FIN
            if size < SMALL:
                self.small += 1
        else:
            self._control = b""
            self.small += 1
        self._opcode = opcode
        self._left = size
        return end

    def _check_start(self, first: int, opcode: int, is_masked: bool, size: int) -> None:
        """Raise WebSocketError for a first and second byte that the peer may not send now."""
        if first & _RESERVED:
            what = "a reserved bit is set; no extension, as permessage-deflate, was agreed on"
        elif is_masked is self.is_client:
            what = "a masked frame of a server" if self.is_client else "a frame of a client that is not masked"
        elif opcode == _TEXT:
            raise WebSocketError("a text message; the protocol is binary", Status.NOT_BINARY)
        elif opcode == _BINARY and self._is_open:
            what = "a new message before the last fragment of the one before"
        elif opcode == _CONTINUATION and not self._is_open:
            what = "a continuation without a message that it goes on with"
        elif opcode >= _CLOSE and (first < _FIN or size > MAX_CONTROL):
            what = "a control frame in fragments, or of more than 125 bytes"
        elif opcode not in (_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG):
            what = f"opcode {opcode}, which is not defined"
        else:
            return
        raise WebSocketError(what, Status.PROTOCOL)

    def _take(self, part: bytes, payloads: list[bytes]) -> None:
        """Take a part of the current frame's payload."""
        if not self.is_client:
            key = self._key
            turn = len(part) & 3
            part = mask(part, key)
            self._key = key[turn:] + key[:turn]
        if self._opcode >= _CLOSE:
            self._control += part
        else:
            payloads.append(part)

    def _control_ends(self) -> None:
        """Act on a whole control frame. Raises WebSocketError for a close frame that can't be."""
        opcode, payload = self._opcode, self._control
        self._opcode = _CONTINUATION
        self._control = b""
        if opcode == _PING:
            self.pong = self._frame(_PONG, payload)
        elif opcode == _CLOSE:
            self.status = _status(payload)


def _status(payload: bytes) -> int:
    """The code in a close frame's payload. Raises WebSocketError (sections 5.5.1, 7.4)."""
    if not payload:
        return Status.NONE
    if len(payload) == 1:
        raise WebSocketError("a close frame with half a code", Status.PROTOCOL)
    status = int.from_bytes(payload[:2], "big")
    if not (1000 <= status <= 1003 or 1007 <= status <= 1014 or 3000 <= status <= 4999):
        raise WebSocketError(f"a close frame with code {status}, which may not be sent", Status.PROTOCOL)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketError("a close frame whose reason is not UTF-8", Status.NOT_UTF8) from None
    return status
