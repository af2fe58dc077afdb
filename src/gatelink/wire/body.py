"""Bodies on their way to and from a frame: compressed first, then scrambled (docs/protocol.md, "Frames").

Compression is one raw snappy block. The block declares the size of its contents. That is only a claim, so it is
checked before anything is allocated.

Scrambling is the base protocol's obfuscation: rotate byte `i` left by `i mod 7 + 1` bits, then XOR `key[i mod 8]`. It
hides text from a glance and nothing from an attacker. Deployed clients need it, so it is cheap: no loop per byte.
Rotation distributes over XOR, so the inverse is the same two steps with other amounts and another key.
"""

from functools import lru_cache

from cramjam import DecompressionError, snappy

from gatelink.config import WireOptions
from gatelink.errors import BodyError, FrameTooLarge
from gatelink.wire.frames import COMPRESSED, SCRAMBLED
from gatelink.wire.messages import MessageType

_PERIOD = 56  # lcm(7, 8): amounts and key repeat after it
_SHORT = 4_096  # bytes up to which whole-body integers are faster than tables (measured)


class BodyCoder:
    """Writes bodies as `options` say and reads all kinds. It is immutable: all connections of a server share one."""

    __slots__ = ("_compress_over", "_scramble", "_scrambler")

    def __init__(self, options: WireOptions) -> None:
        self._compress_over = options.compress_over
        self._scramble = options.scramble
        self._scrambler = _scrambler(options.scramble_key)

    def close(self, kind: MessageType, body: bytes) -> tuple[int, bytes]:
        """The flags and body of the frame for `body`, an encoded `kind`. It is compressed only if that is smaller."""
        flags = 0
        if kind.compress and self._compress_over and len(body) >= self._compress_over:
            block = compress(body)
            if len(block) < len(body):
                flags, body = COMPRESSED, block
        if self._scramble:  # an empty body too: the original sets the flag on every frame
            flags, body = flags | SCRAMBLED, self._scrambler.scramble(body)
        return flags, body

    def open(self, flags: int, body: bytes, limit: int) -> bytes:
        """The encoded message in a frame's `body` with `flags` 0 to 3.

        Raises FrameTooLarge if it would decompress to more than `limit` bytes, BodyError for a corrupt block.
        """
        if flags & SCRAMBLED:
            body = self._scrambler.unscramble(body)
        if flags & COMPRESSED:
            body = decompress(body, limit)
        return body


def compress(body: bytes) -> bytes:
    """The snappy block of `body`: never empty, and not always smaller than `body`."""
    return bytes(snappy.compress_raw(body))


def decompress(block: bytes, limit: int) -> bytes:
    """The body in a snappy block, at most `limit` bytes. It may be empty (block `00`).

    Raises FrameTooLarge if the block declares more; BodyError if it is empty, corrupt, or declares a wrong size.
    """
    if not block:
        raise BodyError("compressed body without a snappy block; an empty body's block is 00")
    try:
        declared = snappy.decompress_raw_len(block)
        if declared > limit:
            raise FrameTooLarge(f"body of {declared} bytes when decompressed is over this connection's {limit}")
        # Three bytes of snappy make at most 64. A larger claim is false, and must not choose how much is allocated.
        if declared * 3 > len(block) * 64:
            raise BodyError(f"snappy block of {len(block)} bytes can't hold the {declared} that it declares")
        return bytes(snappy.decompress_raw(block))
    except DecompressionError as error:
        raise BodyError(f"snappy block of {len(block)} bytes: {error}") from None


class Scrambler:
    """The base cipher under one 8-byte `key`. It takes 200 KiB and some ms to make, and is immutable, so share it."""

    __slots__ = ("_forth", "_back")

    def __init__(self, key: bytes) -> None:
        amounts = [i % 7 + 1 for i in range(_PERIOD)]
        pad = [key[i % 8] for i in range(_PERIOD)]
        undo = [8 - amount for amount in amounts]
        self._forth = _Cipher(amounts, pad)
        self._back = _Cipher(undo, [_rotate(byte, amount) for byte, amount in zip(pad, undo, strict=True)])

    def scramble(self, body: bytes) -> bytes:
        """`body`, of any length, scrambled to the same length."""
        return self._forth.apply(body)

    def unscramble(self, body: bytes) -> bytes:
        """The inverse of `scramble`. Every body is valid here; a wrong key shows later, in the codec."""
        return self._back.apply(body)


class _Cipher:
    """Rotates byte `i` left by `amounts[i]`, then XORs it with `pad[i]`; both have one period's 56 numbers."""

    __slots__ = ("_sizes", "_tables")

    def __init__(self, amounts: list[int], pad: list[int]) -> None:
        self._sizes = [_Masks(1 << bits, amounts, pad) for bits in range(_SHORT.bit_length())]
        self._tables = [
            bytes(_rotate(byte, amount) ^ key for byte in range(256)) for amount, key in zip(amounts, pad, strict=True)
        ]

    def apply(self, body: bytes) -> bytes:
        size = len(body)
        if not size:
            return b""
        if size <= _SHORT:
            return self._sizes[(size - 1).bit_length()].apply(body)
        out = bytearray(size)
        for i, table in enumerate(self._tables):
            out[i::_PERIOD] = body[i::_PERIOD].translate(table)
        return bytes(out)


class _Masks:
    """The cipher for bodies of up to `size` bytes as one integer, byte 0 lowest.

    A rotation by 1 to 7 is at most three of 1, 2 and 4. Each of them has three masks: the bits that move up in their
    byte, the bits that wrap to its bottom, and the bytes that stay.
    """

    __slots__ = ("_masks", "_pad", "_size")

    def __init__(self, size: int, amounts: list[int], pad: list[int]) -> None:
        def number(period: list[int]) -> int:
            return int.from_bytes((bytes(period) * (size // _PERIOD + 1))[:size], "little")

        self._size = size
        self._pad = number(pad)
        self._masks = tuple(
            number([byte if amount & step else other for amount in amounts])
            for step in (1, 2, 4)
            for byte, other in ((0xFF >> step, 0), (0xFF & ~(0xFF >> step), 0), (0, 0xFF))
        )

    def apply(self, body: bytes) -> bytes:
        up1, round1, stay1, up2, round2, stay2, up4, round4, stay4 = self._masks
        x = int.from_bytes(body, "little")
        x = (x & up1) << 1 | (x & round1) >> 7 | x & stay1
        x = (x & up2) << 2 | (x & round2) >> 6 | x & stay2
        x = (x & up4) << 4 | (x & round4) >> 4 | x & stay4
        return (x ^ self._pad).to_bytes(self._size, "little")[: len(body)]


def _rotate(byte: int, amount: int) -> int:
    """`byte` rotated left by 0 to 8 bits."""
    return (byte << amount | byte >> (8 - amount)) & 0xFF


_scrambler = lru_cache(maxsize=8)(Scrambler)  # ten thousand robots in one process share one
