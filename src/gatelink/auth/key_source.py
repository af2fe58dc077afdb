"""The source of an issuer's public keys, checked without the libraries that fetch them."""

import ipaddress
from urllib.parse import urlsplit

from gatelink.errors import ConfigError


def url_of(source: str) -> str | None:
    """`source` if it is a URL, None if it is a path. Raises ConfigError for a URL that an attacker could answer."""
    if "://" not in source:
        return None
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"keys from {source}: not a URL; write it as https://accounts.example.com/keys") from None
    if parts.username is not None:
        raise ConfigError(f"keys from {host}: the URL holds a user or a password; public keys need none")
    if host and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        return source
    raise ConfigError(f"keys from {source}: it must be https, http on loopback, or a file's path")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
