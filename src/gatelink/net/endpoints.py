"""Endpoints, and the count of connections of each address."""

import errno
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET6, inet_ntop
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec

from gatelink.config import Network, networks
from gatelink.errors import ConfigError

MAX_UNIX_PATH = 107  # bytes: sun_path of Linux less its final NUL

_CACHED_HOSTS = 16_384  # strings; about 4 MiB when full

_HOST = r"://(?:\[([A-Za-z0-9:.%_-]*)\]|([A-Za-z0-9._-]+))"
_TCP = re.compile(rf"(tcp|tls){_HOST}:([0-9]{{1,5}})")
_WEB = re.compile(rf"(ws|wss){_HOST}(?::([0-9]{{1,5}}))?(/[!-\"$-~]*)?")
WEB_PORTS = {"ws": 80, "wss": 443}
"""The port of an endpoint that names none."""

TLS_SCHEMES = frozenset({"tls", "wss"})
WEB_SCHEMES = frozenset({"ws", "wss"})


class Endpoint(msgspec.Struct, frozen=True):
    """An address to listen on or connect to. `str` returns the text that `parse_endpoint` takes."""

    scheme: Literal["tcp", "tls", "unix", "ws", "wss"]
    host: str = ""  # not unix: a name or an IP address, IPv6 without brackets
    port: int = 0  # not unix: 0..65535; listening on 0 takes any free port
    path: str = ""  # unix: absolute; ws, wss: with its query, empty for "/"

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that `text` names: `tcp://host:port`, `tls://[::1]:7000`, `unix:///run/gate.sock`,
    `wss://host/path`. Without a port ws:// has 80 and wss:// 443.

    Raises ConfigError with what is wrong and how it is written.
    """
    if text.startswith("unix://"):
        return Endpoint("unix", path=_check_path(text))
    path = ""
    if match := _WEB.fullmatch(text):
        scheme, literal, host, port, path = match.groups("")
        port = port or str(WEB_PORTS[scheme])
        path = path.removeprefix("/") and path
    elif match := _TCP.fullmatch(text):
        scheme, literal, host, port = match.groups("")
    else:
        if text.startswith(("ws://", "wss://")):
            raise _error(text, "write it as ws://host:port, wss://host:port/path or wss://[::1]:7443")
        fix = "tcp://host:port, tls://host:port, ws://host:port, tcp://[::1]:7000 or unix:///run/gate.sock"
        raise _error(text, f"write it as {fix}")
    if int(port) > 65_535:
        raise _error(text, f"port {port} is over 65535")
    try:
        if not host:
            host = str(IPv6Address(literal))
        elif host.replace(".", "").isdigit():
            host = str(IPv4Address(host))
    except ValueError as error:
        raise _error(text, f"not an IP address: {error}") from None
    return Endpoint(cast(Literal["tcp", "tls", "ws", "wss"], scheme), host, int(port), path)


def parse_admin(text: str) -> Endpoint:
    """The endpoint of an admin address, `127.0.0.1:9100` or `[::1]:9100`. Raises ConfigError."""
    try:
        return parse_endpoint(f"tcp://{text}")
    except ConfigError:
        fix = f"127.0.0.1{text}" if re.fullmatch(r":[0-9]{1,5}", text) else "127.0.0.1:9100 or [::1]:9100"
        raise ConfigError(f"admin address {text!r} is not host:port; write it as {fix}") from None


def _check_path(text: str) -> str:
    path = text.removeprefix("unix://")
    if not path.startswith("/") or path.endswith("/"):
        raise _error(text, "write the absolute path of the socket, as unix:///run/gate.sock (three slashes)")
    if not path.isprintable():
        raise _error(text, "the path holds an unprintable character")
    if (size := len(os.fsencode(path))) > MAX_UNIX_PATH:
        raise _error(text, f"the path has {size} bytes, a Unix socket's at most {MAX_UNIX_PATH}; choose a shorter one")
    return path


def _error(text: str, what: str) -> ConfigError:
    return ConfigError(f"not an endpoint: {text!r}: {what}")


def failure(error: OSError | UnicodeError) -> str:
    """The reason why the system could not listen or connect."""
    if type(error).__module__ != "ssl" and isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__


def not_listening(error: OSError | UnicodeError) -> str:
    """The reason why the system could not listen at a TCP address, and what to do."""
    if isinstance(error, PermissionError):
        return f"{failure(error)}; choose a port above 1023, or give the process CAP_NET_BIND_SERVICE"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{failure(error)}; raise ulimit -n"
    return f"{failure(error)}; choose an address of this machine and a port that is free"


@lru_cache(_CACHED_HOSTS)
def address_key(host: str) -> str:
    """The key of `host`, a peer's address, in limits of an address.

    An IPv4 address stands for itself, also when mapped into IPv6; an IPv6 address is its /64, which is what one
    customer gets; any other text, as a Unix socket's peer name, is `unix`.
    """
    return _key(_address(host))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _key(address: IPv4Address | IPv6Address | None) -> str:
    if address is None:
        return "unix"
    if isinstance(address, IPv4Address):
        return str(address)
    return inet_ntop(AF_INET6, address.packed[:8] + bytes(8)) + "/64"


def is_everywhere(host: str) -> bool:
    """Whether listening on `host` accepts connections on every address of the machine: 0.0.0.0, ::."""
    address = _address(host)
    return address is not None and address.is_unspecified


def check_connectable(text: str, what: str) -> None:
    """Raise ConfigError for an address that no client can connect to: 0.0.0.0 or [::]. what: its use, and a fix."""
    if is_everywhere(parse_endpoint(text).host):
        raise ConfigError(f"{text} is every address of a machine, and none to connect to; {what}")


def http_address(url: str) -> tuple[str, int] | None:
    """The host and port of `http://host:port`; None for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if host is None or port is None or parts.scheme != "http" or parts.path not in ("", "/"):
        return None
    return host, port


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine's loopback."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def contains(networks: Iterable[Network], host: str) -> bool:
    """Whether `host` is in one of `networks`; a Unix socket's peer counts as 127.0.0.1."""
    address = _address(host) or IPv4Address("127.0.0.1")
    return any(address in network for network in networks)


class AddressTable:
    """Counts the connections of each `address_key`; one that holds none takes no room.

    counted_key: returns the key that a host counts under, None when it is exempt.
    `limit` is how many one key may hold; addresses in the `exempt` networks are not counted. A Unix socket's peers are
    on this machine: they are exempt when 127.0.0.1 is.
    """

    def __init__(self, limit: int, exempt: Iterable[str] = ()) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}
        exempt_networks = networks(*exempt)

        @lru_cache(_CACHED_HOSTS)
        def counted_key(host: str) -> str | None:
            """The key that `host` counts under, None when it is exempt."""
            return None if contains(exempt_networks, host) else address_key(host)

        self.counted_key = counted_key

    def __len__(self) -> int:
        """The number of keys that hold a connection."""
        return len(self._counts)

    def enter(self, host: str) -> bool:
        """Count a connection from `host`. False, and not counted, when its key is at the limit."""
        key = self.counted_key(host)
        if key is None:
            return True
        count = self._counts.get(key, 0)
        if count >= self._limit:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, host: str) -> None:
        """Take back one `enter` that returned True. Raises KeyError when `host` has none left."""
        key = self.counted_key(host)
        if key is None:
            return
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]
