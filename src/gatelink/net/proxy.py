"""The PROXY protocol, version 2: the header in which a load balancer says who it connects for.

The specification is HAProxy's `proxy-protocol.txt`, section 2.2. Version 1, the text form, is not read. Whoever can
reach a listener that reads this header can claim any address, so such a listener is for the balancer alone.
"""

from socket import AF_INET, AF_INET6, inet_ntop

import msgspec

from gatelink.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_HEADER = 1_024  # bytes in all. Our limit, not the specification's (65,551): addresses take 52, TLVs a few hundred

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


def parse_proxy_header(data: bytes) -> tuple[int, ProxyInfo] | None:
    """The header that `data`, all of a connection's bytes so far, starts with, and its length.

    None: not all of it is there yet, and what is there is right. TLVs are skipped, unchecked. Raises ProtocolError at
    the first byte that cannot be a version 2 header of a stream, or that makes one over 1,024 bytes.
    """
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


def _check_start(data: bytes) -> None:
    """Raise ProtocolError at the first byte of `data` that differs from the signature."""
    for index, (seen, expected) in enumerate(zip(data, SIGNATURE, strict=False)):
        if seen != expected:
            raise ProtocolError(
                f"not a PROXY version 2 header: byte {index} is 0x{seen:02x}, expected 0x{expected:02x}; "
                "does this come from the balancer, and is it set to send version 2?"
            )


def _tcp_info(family: int, source: bytes, destination: bytes, ports: bytes) -> ProxyInfo:
    return ProxyInfo(
        (inet_ntop(family, source), int.from_bytes(ports[:2], "big")),
        (inet_ntop(family, destination), int.from_bytes(ports[2:], "big")),
    )
