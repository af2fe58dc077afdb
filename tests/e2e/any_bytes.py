"""Any bytes that a client may send: whole messages, and a few frames that are odd or no frames at all."""

from hypothesis import strategies as st

from gatelink.wire.frames import encode_control_frame, encode_frame
from tests.e2e.support import CATALOG, Blob, Echo, Note, frame_of

ECHO, BLOB, NOTE = (CATALOG.find(cls).id for cls in (Echo, Blob, Note))
bodies = st.binary(max_size=40) | st.sampled_from([bytes(700), bytes(1_400)])
frames = st.one_of(
    bodies.map(lambda body: encode_frame(BLOB, body)),
    st.integers(0, 9).map(lambda n: frame_of(Note(n))),
    st.integers(0, 9).map(lambda n: frame_of(Echo(n))),
    st.integers(0, 9).map(lambda n: frame_of(Echo(n, "raise"))),
    st.integers(0, 9).map(lambda n: frame_of(Echo(n, "full"))),
)
odd = st.one_of(
    st.just(frame_of(Echo(1, "close"))),
    st.just(frame_of(Echo(1, "kick"))),
    st.just(frame_of(Echo(1, "abort"))),
    st.just(encode_frame(ECHO, b"no msgpack")),
    st.just(encode_frame(BLOB, b"", 1)),
    st.just(encode_frame(BLOB, b"", 2)),
    st.just(encode_frame(12_345, b"no handler")),
    st.just(encode_frame(1, b"a base message")),
    st.just(encode_frame(3, b"")),
    st.just(encode_control_frame(b"\1")),
    st.just(b"\0\0\0\0"),  # a message of length 0
    st.just(b"\1\0\0\0\0"),
    st.just(b"\2\0\0\0\0\0"),  # id 0
    st.just(b"\2\0\0\4\1\0"),
    st.just((2_001).to_bytes(4, "little")),
    st.just((2_000).to_bytes(4, "little") + BLOB.to_bytes(2, "little") + bytes(1_998)),
    st.binary(min_size=1, max_size=12),
)
sizes = st.lists(st.integers(1, 400) | st.integers(1, 7), max_size=8)
"""The sizes of the first pieces in which bytes are sent."""

streams = st.tuples(
    st.lists(frames, max_size=30),
    st.lists(odd, max_size=2),
    st.lists(frames, max_size=6),
    st.integers(0, 12),  # bytes that the last one lacks
    sizes,
)

Conversation = tuple[list[bytes], list[bytes], list[bytes], int, list[int]]
"""What `streams` gives: three lists of frames, the bytes that the last one lacks, and the sizes of the first pieces."""


def pieces_of(conversation: Conversation) -> list[bytes]:
    """The bytes of a conversation in the pieces in which a client sends them."""
    good, bad, more, lacks, sizes = conversation
    data = b"".join([*good, *bad, *more])
    data = data[: len(data) - lacks] if lacks < len(data) else data
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in [*pieces, data[at:]] if piece]
