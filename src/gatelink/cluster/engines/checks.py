"""What every engine takes: names, values, times. Checked before anything is sent."""

import math
import re

MAX_VALUE = (1 << 20) - 1_024
"""Bytes of a value, an event or a request: what NATS takes by default, less the headers."""

MAX_NAME = 512
MAX_TTL = 10 * 365 * 86_400.0  # s
MAX_TIMEOUT = 3_600.0  # s that a request may wait

_NAME = re.compile(r"[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]+)*")


def check_name(name: str) -> None:
    """Of a key, a prefix or a subject. Raises ValueError."""
    if len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters; the longest has {MAX_NAME}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not words of A-Z a-z 0-9 _ - = joined by dots")


def check_value(value: bytes) -> None:
    """Of a key, an event, a request or an answer. Raises ValueError."""
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes are more than an engine's {MAX_VALUE}")


def check_write(key: str, value: bytes, ttl: float) -> int:
    """Of a write; gives its ttl in whole seconds, rounded up. Raises ValueError, as for a ttl under 1 s."""
    check_name(key)
    check_value(value)
    if not 1 <= ttl <= MAX_TTL:
        raise ValueError(f"a ttl of {ttl:g} s; it must be from 1 to {MAX_TTL:g}")
    return math.ceil(ttl)


def check_timeout(timeout: float) -> None:
    """Of a request. Raises ValueError."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(f"a timeout of {timeout:g} s; it must be above 0 and at most {MAX_TIMEOUT:g}")


def is_below(key: str, prefix: str) -> bool:
    """Whether `key` has the words of `prefix` and at least one more."""
    return key.startswith(prefix) and key[len(prefix) : len(prefix) + 1] == "."
