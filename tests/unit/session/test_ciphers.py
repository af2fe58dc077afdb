"""Ciphers of idle connections are given back, and made again when they are needed."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gatelink.session.ciphers import AT_ONCE, IDLE, LOOK, Ciphers
from gatelink.session.timers import TICK, Wheel
from tests.twins import beside, twins

pytestmark = twins("SecureStream")


class Time:
    """A wheel whose time is moved by hand, and the ciphers that it has."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wheel = Wheel(asyncio.get_running_loop(), lambda: self.now)
        self.ciphers = Ciphers(lambda: self.wheel)

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.wheel.run_due()


def pair(SecureStream: Any) -> tuple[Any, Any]:
    keys = bytes([1]) * 32, bytes([2]) * 32
    ours, theirs = ([beside(SecureStream, "CipherState")(key) for key in keys] for _ in range(2))
    return SecureStream(ours[0], ours[1]), SecureStream(theirs[1], theirs[0])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of the ciphers that were made."""
    keys: list[bytes] = []

    def counting(key: bytes) -> AESGCM:
        keys.append(key)
        return AESGCM(key)

    monkeypatch.setattr("gatelink.wire.noise.AESGCM", counting)
    return keys


async def test_an_idle_connection_has_no_ciphers_and_goes_on_where_it_was(SecureStream: Any, made: list[bytes]) -> None:
    time = Time()
    ours, theirs = pair(SecureStream)
    time.ciphers.watch(ours)
    for n in range(3):
        before = len(made)
        for _ in range(5):
            assert theirs.feed(ours.seal(b"there")) == b"there"
            assert ours.feed(theirs.seal(b"and back")) == b"and back"
        assert len(made) - before == (4 if n == 0 else 2), "theirs is not watched, and keeps its own"
        assert len(time.ciphers) == 1
        time.passes(2 * IDLE + 2 * LOOK)
        assert len(time.ciphers) == 0
    time.passes(10)
    assert len(made) == 8 and len(time.wheel) == 0, "an idle connection costs nothing"


async def test_a_connection_in_use_keeps_its_ciphers(SecureStream: Any, made: list[bytes]) -> None:
    time = Time()
    ours, theirs = pair(SecureStream)
    time.ciphers.watch(ours)
    for _ in range(20):
        assert theirs.feed(ours.seal(b"x")) == b"x"
        time.passes(IDLE / 2)
    assert len(made) == 4


async def test_what_was_half_received_is_opened_after_a_rest(SecureStream: Any) -> None:
    time = Time()
    ours, theirs = pair(SecureStream)
    time.ciphers.watch(theirs)
    record = ours.seal(b"whole")
    assert theirs.feed(record[:10]) == b""
    assert len(time.ciphers) == 1
    time.passes(5)
    assert len(time.ciphers) == 0
    assert theirs.feed(record[10:]) == b"whole"


async def test_many_are_given_back_in_bounded_steps(SecureStream: Any) -> None:
    time = Time()
    streams = [pair(SecureStream)[0] for _ in range(2 * AT_ONCE + 1)]
    for stream in streams:
        time.ciphers.watch(stream)
        stream.seal(b"x")
    left = [len(streams)]
    for _ in range(round((IDLE + 4 * LOOK) / TICK)):
        time.passes(TICK)
        left.append(len(time.ciphers))
    assert left[-1] == 0 and max(a - b for a, b in pairwise(left)) == AT_ONCE
