"""Compressed bodies: one raw snappy block each (docs/protocol.md, "Frames").

A block starts with the size of what it holds, which is only a claim: it is checked before the decompressor allocates.
"""

from cramjam import DecompressionError, snappy

from gatelink.errors import BodyError, FrameTooLarge


def compress(body: bytes) -> bytes:
    """The block of `body`; never empty, and not always smaller than `body`."""
    return bytes(snappy.compress_raw(body))


def decompress(block: bytes, limit: int) -> bytes:
    """The body that `block` holds, at most `limit` bytes; may be empty (block `00`).

    Raises FrameTooLarge when the block declares more, BodyError when it is empty, corrupt, or declares another size
    than it has.
    """
    if not block:
        raise BodyError("compressed body without a snappy block; an empty body's block is 00")
    try:
        declared = snappy.decompress_raw_len(block)
        if declared > limit:
            raise FrameTooLarge(f"body of {declared} bytes when decompressed is over this connection's {limit}")
        # Three bytes of snappy make at most 64: a claim beyond that is false, and must not choose what we allocate.
        if declared * 3 > len(block) * 64:
            raise BodyError(f"snappy block of {len(block)} bytes can't hold the {declared} that it declares")
        return bytes(snappy.decompress_raw(block))
    except DecompressionError as error:
        raise BodyError(f"snappy block of {len(block)} bytes: {error}") from None
