"""Bodies on their way to and from a frame: compressed first, then scrambled (docs/protocol.md, "Frames")."""

from functools import lru_cache

from gatelink.config import WireOptions
from gatelink.wire.compress import compress, decompress
from gatelink.wire.frames import COMPRESSED, SCRAMBLED
from gatelink.wire.messages import MessageType
from gatelink.wire.scramble import Scrambler

_scrambler = lru_cache(maxsize=8)(Scrambler)  # ten thousand robots in one process share one


class BodyCoder:
    """Writes bodies as `options` say and reads all kinds. It never changes: one serves all connections of a server."""

    __slots__ = ("_compress_over", "_scramble", "_scrambler")

    def __init__(self, options: WireOptions) -> None:
        self._compress_over = options.compress_over
        self._scramble = options.scramble
        self._scrambler = _scrambler(options.scramble_key)

    def close(self, kind: MessageType, body: bytes) -> tuple[int, bytes]:
        """The flags and body of the frame for `body`, an encoded `kind`; compressed only where that is smaller."""
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

        Raises FrameTooLarge when it would decompress to more than `limit` bytes, BodyError for a corrupt block.
        """
        if flags & SCRAMBLED:
            body = self._scrambler.unscramble(body)
        if flags & COMPRESSED:
            body = decompress(body, limit)
        return body
