"""No body in chunks is read that another reader of HTTP could see end elsewhere."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.login.http import StrictParser

HEAD = b"POST /v1/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def read(data: bytes, step: int) -> bytes | None:
    """The body that is read from `data`, which comes `step` bytes at a time; None if it is refused."""
    connection = StrictParser(16_384)
    body = b""
    try:
        for at in range(0, len(data), step):
            connection.receive_data(data[at : at + step])
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    return body
                elif event is h11.NEED_DATA:
                    break
    except h11.RemoteProtocolError:
        return None
    raise AssertionError("neither read nor refused")


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"A\r\nCR \r LF \n.\r\n0\r\n\r\n", b"CR \r LF \n."),
        (b"2\r\n\r\n\r\n3\r\n\r\r\r\r\n0\r\n\r\n", b"\r\n\r\r\r"),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", None),
        (b"5;\r\r\nhello\r\n0\r\n\r\n", None),
        (b"5\r;\r\nhello\r\n0\r\n\r\n", None),
        (b"5\r\nhello\r\n0;a\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n0;a\rb\r\n\r\n", None),
        (b"5\r\nhello\r\n5;x\ry\r\nhello\r\n0\r\n\r\n", None),
        (b"5\nhello\r\n0\r\n\r\n", None),
        (b"5;a\nb\r\nhello\r\n0\r\n\r\n", None),
    ],
)
def test_a_line_of_a_chunk_has_no_bare_cr_or_lf(chunks: bytes, body: bytes | None, step: int) -> None:
    assert read(HEAD + chunks, step) == body


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 20))
def test_every_body_is_read_whatever_is_in_it(parts: list[bytes], step: int) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert read(HEAD + chunks, step) == b"".join(parts)


@given(st.text("0123;ab\r\n", max_size=40), st.integers(1, 5))
def test_whatever_is_read_is_what_h11_reads_and_has_no_bare_cr_in_an_extension(text: str, step: int) -> None:
    data = text.encode() + b"\r\n0\r\n\r\n" * 4
    try:
        found = read(HEAD + data, step)
    except AssertionError:
        return  # still waiting
    if found is not None:
        line = data.partition(b"\r\n")[0]
        assert b"\r" not in line and b"\n" not in line
