"""The origins of web pages (RFC 6454) whose scripts may use a server. Browsers send them, and tell the truth."""

import re
from collections.abc import Iterable

from gatelink.errors import ConfigError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,*]+")

ANY = "*"


def check_origins(origins: Iterable[str]) -> frozenset[str]:
    """The origins in the form that browsers send. Raises ConfigError for a text that is none."""
    lower = [origin.lower() for origin in origins]
    for origin in lower:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f'origin {origin!r}: write it as "https://play.example.com", without a path; or "*" for all'
            )
    return frozenset(lower)


def takes(origins: frozenset[str], origin: str) -> bool:
    """Whether pages of `origin` may connect."""
    return ANY in origins or origin.lower() in origins
