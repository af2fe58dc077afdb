"""The address of a client behind an HTTP proxy: X-Forwarded-For, and Forwarded (RFC 7239).

Each proxy appends the address of its peer. So a header is read from its end, up to the first address that is no proxy
of ours; anyone can have written the rest.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from gatelink.config import Network
from gatelink.errors import ProtocolError
from gatelink.net.endpoints import contains

Headers = Sequence[tuple[bytes, bytes]]
"""Names, in lower case, and values."""

_WITH_PORT = re.compile(r"\[(.*)\](?::[0-9]+)?|([^:]*):[0-9]+")  # as some proxies write addresses
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^";]*?))\s*(?:;|$)', re.IGNORECASE)


def forwarded_for(headers: Headers, peer: str, proxies: tuple[Network, ...]) -> str:
    """The client's address: `peer`, or, if that is one of `proxies`, the address in X-Forwarded-For.

    A text that is no address is ignored.
    """
    return _walk(_listed(headers, b"x-forwarded-for"), peer, proxies)


def client_address(headers: Headers, peer: str, proxies: tuple[Network, ...]) -> str:
    """As `forwarded_for`, by X-Forwarded-For or Forwarded, whichever there is.

    A proxy writes one of them. If it lets the other pass, that is the client's own word. So two that lead to different
    addresses are refused: raises ProtocolError.
    """
    elements = _listed(headers, b"forwarded")
    if not elements or not contains(proxies, peer):
        return forwarded_for(headers, peer, proxies)
    address = _walk([_node(element) for element in elements], peer, proxies)
    if any(name == b"x-forwarded-for" for name, _ in headers) and address != forwarded_for(headers, peer, proxies):
        raise ProtocolError(
            "Forwarded and X-Forwarded-For name different clients; let the proxy remove the one that it does not write"
        )
    return address


def _listed(headers: Headers, named: bytes) -> list[str]:
    values = [value for name, value in headers if name == named]
    return b",".join(values).decode("latin-1").split(",") if values else []


def _walk(listed: list[str], peer: str, proxies: tuple[Network, ...]) -> str:
    """Go from `peer` to the last of `listed`, and on to the one before, as long as they are proxies of ours."""
    while peer and contains(proxies, peer) and listed:
        host = _address(listed.pop().strip())
        if host is None:
            break
        peer = host
    return peer


def _node(element: str) -> str:
    """The text of `for` in one element of Forwarded; "" without one."""
    match = _FOR.search(element.strip())
    return (match[1] or match[2] or "") if match else ""


def _address(text: str) -> str | None:
    """The address in `text`, with or without a port. None: `text` is no address."""
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
