"""The PROXY protocol: the header in which a load balancer names the client that it connects for.

The specification is HAProxy's `proxy-protocol.txt`: section 2.1 for version 1, a line of text, which nginx's stream
module sends; 2.2 for version 2. A peer that can reach a listener that reads this header can claim any address, so such
a listener is for the balancer alone.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop

import msgspec

from gatelink.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107  # bytes of a version 1 header with its line's end, by the specification
MAX_HEADER = 1_024  # bytes in all. Our limit, not the specification's (65,551): addresses take 52, TLVs a few hundred

_V1 = b"PROXY "
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9.]+|[0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_V1_FORM = "PROXY TCP4 (or TCP6) SOURCE DESTINATION PORT PORT, or PROXY UNKNOWN"

_FIXED = 16  # signature, version and command, family, length u16 (big-endian)
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES = {_UNSPEC: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}  # bytes of addresses, before the TLVs


class ProxyInfo(msgspec.Struct, frozen=True):
    """Both ends of the connection that the balancer accepted, each (address, port).

    None when it names none: its own health check (LOCAL), an unspecified family, or a Unix socket.
    """

    source: tuple[str, int] | None = None
    destination: tuple[str, int] | None = None


def begins_header(data: bytes) -> bool:
    """Whether `data`, the first bytes of a connection, is or may become a header, and not an HTTP request."""
    return SIGNATURE.startswith(data[: len(SIGNATURE)]) or _V1.startswith(data[: len(_V1)])


def is_header(data: bytes) -> bool:
    """Whether `data`, the first bytes of a connection, begin as a header and as nothing else."""
    return data.startswith((SIGNATURE[:4], _V1))


def parse_proxy_header(data: bytes) -> tuple[int, ProxyInfo] | None:
    """The header that `data`, all of a connection's bytes so far, starts with, and its length.

    None: not all of it is there yet, and what is there is right. TLVs are skipped, unchecked. Raises ProtocolError at
    the first byte that cannot be a version 2 header of a stream, or that makes one over 1,024 bytes; for a line of
    version 1 that is not ASCII, over 107 bytes, or not as the specification has it.
    """
    if data[:1] == b"P":
        return _parse_v1(data)
    if not data.startswith(SIGNATURE):
        _check_start(data)
        return None
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise ProtocolError(f"PROXY version and command 0x{data[12]:02x}; expected 0x20 (LOCAL) or 0x21 (PROXY)")
    # LOCAL: "the receiver must discard the protocol block including the family"
    if len(data) > 13 and data[12] == _PROXY and data[13] not in _ADDRESSES:
        raise ProtocolError(f"PROXY family 0x{data[13]:02x}; expected 0x00, 0x11 (TCP4), 0x21 (TCP6) or 0x31 (Unix)")
    if len(data) < _FIXED:
        return None
    family = data[13] if data[12] == _PROXY else _UNSPEC
    length = int.from_bytes(data[14:16], "big")
    if length < _ADDRESSES[family]:
        raise ProtocolError(f"PROXY family 0x{family:02x} in {length} bytes; its addresses take {_ADDRESSES[family]}")
    end = _FIXED + length
    if end > MAX_HEADER:
        raise ProtocolError(f"PROXY header of {end} bytes is over {MAX_HEADER}; let the balancer send fewer TLVs")
    if len(data) < end:
        return None
    if family == _TCP4:
        return end, _tcp_info(AF_INET, data[16:20], data[20:24], data[24:28])
    if family == _TCP6:
        return end, _tcp_info(AF_INET6, data[16:32], data[32:48], data[48:52])
    return end, ProxyInfo()


def _parse_v1(data: bytes) -> tuple[int, ProxyInfo] | None:
    """As `parse_proxy_header`, for version 1."""
    _check_start(data, _V1)
    end = data.find(b"\r\n", 0, MAX_V1)
    line = data[: MAX_V1 if end < 0 else end]
    for index, byte in enumerate(line):
        is_end_to_come = byte == 0x0D and end < 0 and index == len(line) - 1
        if not 0x20 <= byte < 0x7F and not is_end_to_come:
            raise ProtocolError(
                f"PROXY version 1 line with byte 0x{byte:02x} at {index}; it is ASCII, and ends in CR LF"
            )
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProtocolError(f"PROXY version 1 line does not end within {MAX_V1} bytes")
        return None
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):  # what follows must be ignored
        return end + 2, ProxyInfo()
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError(f"PROXY version 1 line is not {_V1_FORM}")
    family, source, destination, *ports = (group.decode() for group in match.groups())
    kind = IPv4Address if family == "TCP4" else IPv6Address
    try:
        hosts = str(kind(source)), str(kind(destination))
    except ValueError:
        raise ProtocolError(f"PROXY version 1 line with an address that is not of {family}") from None
    if any(int(port) > 65_535 or str(int(port)) != port for port in ports):
        raise ProtocolError("PROXY version 1 line with a port that is not 0 to 65535 without leading zeros")
    return end + 2, ProxyInfo((hosts[0], int(ports[0])), (hosts[1], int(ports[1])))


def _check_start(data: bytes, start: bytes = SIGNATURE) -> None:
    """Raise ProtocolError at the first byte of `data` that differs from `start`."""
    for index, (seen, expected) in enumerate(zip(data, start, strict=False)):
        if seen != expected:
            raise ProtocolError(
                f"not a PROXY version 2 header, nor one of version 1: byte {index} is 0x{seen:02x}, expected "
                f"0x{expected:02x}; does this come from the balancer, and is it set to send the header?"
            )


def _tcp_info(family: int, source: bytes, destination: bytes, ports: bytes) -> ProxyInfo:
    return ProxyInfo(
        (inet_ntop(family, source), int.from_bytes(ports[:2], "big")),
        (inet_ntop(family, destination), int.from_bytes(ports[2:], "big")),
    )
