"""The header of the PROXY protocol: both versions, cut short anywhere, and wrong."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.errors import ProtocolError
from gatelink.net.proxy_header import MAX_HEADER, MAX_V1, SIGNATURE, ProxyInfo, parse_proxy_header

IP = IPv4Address | IPv6Address


def header(block: bytes = b"", *, command: int = 0x21, family: int = 0x00, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + block


def tcp_header(source: tuple[IP, int], destination: tuple[IP, int], tlvs: bytes = b"") -> bytes:
    block = source[0].packed + destination[0].packed + source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    return header(block + tlvs, family=0x11 if source[0].version == 4 else 0x21)


def outcome(data: bytes) -> tuple[int, ProxyInfo] | None | str:
    try:
        return parse_proxy_header(data)
    except ProtocolError as error:
        return str(error)


ports = st.integers(0, 65_535)
pairs = st.one_of(
    *(st.tuples(*[st.tuples(st.ip_addresses(v=version), ports)] * 2) for version in (4, 6)),
)
tlvs = st.binary(max_size=200)
# Bytes that are nearly a header, so that every check is reached, and bytes that are anything.
nearly = st.builds(
    lambda head, rest: header(rest, **head),
    st.fixed_dictionaries(
        {
            "command": st.sampled_from([0x20, 0x21, 0x22, 0x11, 0x31]),
            "family": st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0xFF]),
            "length": st.none() | st.integers(0, 1_100) | st.integers(0, 65_535),
        }
    ),
    st.binary(max_size=300),
)
lines = st.builds(
    lambda parts, end: b" ".join(parts) + end,
    st.lists(
        st.sampled_from([b"PROXY", b"TCP4", b"TCP6", b"UNKNOWN", b"", b"1.2.3.4", b"::1", b"80", b"65536", b"01"])
        | st.binary(max_size=30),
        max_size=8,
    ),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\nPROXY", b"", b"\r\r\n", bytes(200)]),
).map(lambda line: b"PROXY " + line)
anything = st.binary(max_size=100) | nearly | lines | lines.map(lambda line: line.removeprefix(b"PROXY "))


@given(pairs, tlvs, st.binary(max_size=50))
def test_a_tcp_header_gives_both_ends_and_its_length(
    ends: tuple[tuple[IP, int], tuple[IP, int]], tlvs: bytes, after: bytes
) -> None:
    data = tcp_header(*ends, tlvs)
    parsed = parse_proxy_header(data + after)
    assert parsed is not None
    length, info = parsed
    assert length == len(data)
    assert info.source is not None and info.destination is not None
    assert [(ip_address(host), port) for host, port in (info.source, info.destination)] == list(ends)


@given(pairs, tlvs)
def test_every_part_of_a_header_asks_for_more(ends: tuple[tuple[IP, int], tuple[IP, int]], tlvs: bytes) -> None:
    data = tcp_header(*ends, tlvs)
    assert all(parse_proxy_header(data[:size]) is None for size in range(len(data)))


@given(anything)
def test_any_bytes_give_the_same_answer_whole_or_byte_by_byte(data: bytes) -> None:
    whole = outcome(data)
    first = next((found for size in range(len(data) + 1) if (found := outcome(data[:size])) is not None), None)
    assert first == whole


@given(anything)
def test_what_is_taken_is_within_the_bytes_and_the_limit(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, tuple):
        assert 15 <= found[0] <= min(len(data), MAX_HEADER)


def test_a_known_header_is_read() -> None:
    data = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c0000201 c6336402 d431 1b58") + b"\x0a\x00"
    assert parse_proxy_header(data) == (28, ProxyInfo(("192.0.2.1", 54321), ("198.51.100.2", 7000)))


@pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0xFF])
@pytest.mark.parametrize("block", [b"", bytes(12), bytes(300)])
def test_a_health_check_names_nobody_whatever_its_family_and_block_say(family: int, block: bytes) -> None:
    data = header(block, command=0x20, family=family)
    assert parse_proxy_header(data) == (len(data), ProxyInfo(None, None))


@pytest.mark.parametrize(("family", "block"), [(0x00, b""), (0x00, bytes(40)), (0x31, b"/run/x".ljust(216, b"\0"))])
def test_unspecified_and_unix_peers_have_no_address(family: int, block: bytes) -> None:
    data = header(block, family=family)
    assert parse_proxy_header(data) == (len(data), ProxyInfo(None, None))


@pytest.mark.parametrize(
    "data", [b"G", b"\x16", b"\x00", b"\r\n\r\n\x01", b"POST / HTTP/1.1", b"PROXY\t", SIGNATURE[:-1] + b"\r"]
)
def test_the_first_byte_that_is_not_the_signature_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a PROXY version 2 header"):
        parse_proxy_header(data)


@pytest.mark.parametrize("command", [0x00, 0x11, 0x22, 0x2F, 0x31])
def test_another_version_or_command_is_refused_at_once(command: int) -> None:
    with pytest.raises(ProtocolError, match=f"0x{command:02x}; expected 0x20"):
        parse_proxy_header(SIGNATURE + bytes([command]))


@pytest.mark.parametrize("family", [0x01, 0x10, 0x12, 0x22, 0x32, 0x41, 0xFF])
def test_a_family_that_is_no_stream_is_refused_at_once(family: int) -> None:
    with pytest.raises(ProtocolError, match=f"family 0x{family:02x}; expected"):
        parse_proxy_header(SIGNATURE + bytes([0x21, family]))


@pytest.mark.parametrize(("family", "length"), [(0x11, 11), (0x21, 35), (0x31, 215), (0x11, 0)])
def test_a_block_too_short_for_its_addresses_is_refused(family: int, length: int) -> None:
    with pytest.raises(ProtocolError, match=f"in {length} bytes"):
        parse_proxy_header(header(family=family, length=length))


def test_a_header_at_the_limit_is_taken_and_one_over_it_refused_before_it_arrives() -> None:
    data = header(bytes(MAX_HEADER - 16))
    assert parse_proxy_header(data) == (MAX_HEADER, ProxyInfo())
    with pytest.raises(ProtocolError, match="1025 bytes is over 1024"):
        parse_proxy_header(header(length=MAX_HEADER - 15))


# -- version 1 --


def line_of(ends: tuple[tuple[IP, int], tuple[IP, int]]) -> bytes:
    (source, port), (destination, other) = ends
    return f"PROXY TCP{source.version} {source} {destination} {port} {other}\r\n".encode()


@given(pairs, st.binary(max_size=50))
def test_a_line_of_version_1_gives_both_ends_and_its_length(
    ends: tuple[tuple[IP, int], tuple[IP, int]], after: bytes
) -> None:
    line = line_of(ends)
    parsed = parse_proxy_header(line + after)
    assert parsed is not None and len(line) <= MAX_V1
    length, info = parsed
    assert length == len(line)
    assert info.source is not None and info.destination is not None
    assert [(ip_address(host), port) for host, port in (info.source, info.destination)] == list(ends)
    assert all(parse_proxy_header(line[:size]) is None for size in range(len(line)))


@pytest.mark.parametrize("rest", [b"", b" ", b" TCP4 1.2.3.4 5.6.7.8 1 2", b" ffff " + b"f" * 80])
def test_an_unknown_peer_of_version_1_has_no_address(rest: bytes) -> None:
    line = b"PROXY UNKNOWN" + rest + b"\r\n"
    assert parse_proxy_header(line + b"more") == (len(line), ProxyInfo(None, None))


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 -2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n",
        b"PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n",
        b"PROXY UNKNOWN \xff\r\n",
        b"PROXY UNKNOWN " + b"f" * MAX_V1,
        b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 15) + b"\r\n",
    ],
)
def test_a_line_that_is_not_as_the_specification_has_it_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="PROXY version 1 line"):
        parse_proxy_header(line)


def test_a_line_of_107_bytes_is_the_longest() -> None:
    line = b"PROXY UNKNOWN ".ljust(MAX_V1 - 2, b"f") + b"\r\n"
    assert parse_proxy_header(line) == (MAX_V1, ProxyInfo())
