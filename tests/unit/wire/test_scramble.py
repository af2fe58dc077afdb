"""The base cipher against the protocol's one-line definition of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.wire.body import Scrambler

KEY = bytes.fromhex("29fd0138343eb02a")
SCRAMBLER = Scrambler(KEY)


def by_definition(body: bytes, key: bytes) -> bytes:
    """docs/protocol.md: byte i: rotate left by i mod 7 + 1 bits, then XOR key[i mod 8]."""
    out = bytearray()
    for i, byte in enumerate(body):
        bits = i % 7 + 1
        out.append((byte << bits & 0xFF | byte >> (8 - bits)) ^ key[i % 8])
    return bytes(out)


@given(st.binary(max_size=300))
def test_it_is_the_protocols_cipher(body: bytes) -> None:
    assert SCRAMBLER.scramble(body) == by_definition(body, KEY)


@given(st.binary(max_size=300))
def test_any_bytes_unscramble_and_come_back(body: bytes) -> None:
    assert SCRAMBLER.unscramble(SCRAMBLER.scramble(body)) == body
    assert SCRAMBLER.scramble(SCRAMBLER.unscramble(body)) == body


@settings(max_examples=15)
@given(st.binary(min_size=8, max_size=8), st.binary(max_size=70))
def test_the_key_decides(key: bytes, body: bytes) -> None:
    assert Scrambler(key).scramble(body) == by_definition(body, key)


@pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 63, 64, 65, 4_095, 4_096, 4_097, 4_152, 65_536, 100_001])
def test_every_length_is_one_cipher(size: int) -> None:
    body = bytes(i * 31 % 251 for i in range(size))
    scrambled = SCRAMBLER.scramble(body)
    assert scrambled == by_definition(body, KEY)
    assert SCRAMBLER.unscramble(scrambled) == body


def test_a_long_body_begins_like_a_short_one() -> None:
    body = bytes(range(256)) * 32
    assert SCRAMBLER.scramble(body)[:1_000] == SCRAMBLER.scramble(body[:1_000])
