"""The base cipher (docs/protocol.md, "Frames"): rotate byte `i` left by `i mod 7 + 1` bits, then XOR `key[i mod 8]`.

It hides text from a glance and nothing from an attacker. Deployed clients need it, so it is cheap: no loop per byte.
Rotation distributes over XOR, so undoing it is the same two steps with other amounts and another key.
"""

_PERIOD = 56  # lcm(7, 8): from here on amounts and key repeat
_SHORT = 4_096  # bytes up to which whole-body integers are faster than tables (measured)


class Scrambler:
    """The base cipher under one 8-byte `key`. It never changes and takes 200 KiB and some ms to make, so share it."""

    __slots__ = ("_forth", "_back")

    def __init__(self, key: bytes) -> None:
        amounts = [i % 7 + 1 for i in range(_PERIOD)]
        pad = [key[i % 8] for i in range(_PERIOD)]
        undo = [8 - amount for amount in amounts]
        self._forth = _Cipher(amounts, pad)
        self._back = _Cipher(undo, [_rotate(byte, amount) for byte, amount in zip(pad, undo, strict=True)])

    def scramble(self, body: bytes) -> bytes:
        """`body`, of any length, scrambled; the length stays."""
        return self._forth.apply(body)

    def unscramble(self, body: bytes) -> bytes:
        """The inverse of `scramble`. Every body is valid, so a wrong key shows only later, in the codec."""
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

    A rotation by 1 to 7 is at most three of 1, 2 and 4. For each: the bits that move up in their byte, those that
    come round to its bottom, and the bytes that stay.
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
