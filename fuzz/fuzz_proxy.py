"""Any bytes: a PROXY header within its limit, a wait for more, or a ProtocolError; the same whole or byte by byte."""

from ipaddress import ip_address

from fuzz.harness import main
from gatelink.errors import ProtocolError
from gatelink.net.proxy_header import MAX_HEADER, ProxyInfo, parse_proxy_header

Outcome = tuple[int, ProxyInfo] | str | None


def check(data: bytes) -> None:
    whole = outcome(data)
    bytewise = next((found for end in range(len(data) + 1) if (found := outcome(data[:end])) is not None), None)
    assert bytewise == whole, f"byte by byte {bytewise}, whole {whole}"
    if whole is None:
        assert len(data) < MAX_HEADER, f"it waits for more than {len(data)} bytes"
    elif isinstance(whole, tuple):
        size, info = whole
        assert 15 <= size <= min(len(data), MAX_HEADER)
        assert parse_proxy_header(data[:size] + b"behind it") == whole, "what is behind the header changes it"
        for end in (info.source, info.destination):
            assert end is None or ip_address(end[0]) and 0 <= end[1] <= 65_535


def outcome(data: bytes) -> Outcome:
    try:
        return parse_proxy_header(data)
    except ProtocolError as error:
        return str(error)


if __name__ == "__main__":
    main(check)
