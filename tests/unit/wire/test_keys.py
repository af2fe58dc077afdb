"""What a client may be given as the public key of a server."""

import pytest

from gatelink.errors import ConfigError
from gatelink.wire.keys import ServerKey, check_public_key


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (bytes(32), "it is all zeros; give `public` of the ServerKey"),
        (bytes([1, *bytes(31)]), "no public key; give"),  # a point of small order, too
        (bytes(31), "has 31 bytes"),
        ("00" * 32, "is a str"),
    ],
)
def test_what_is_no_public_key_is_refused_before_anything_is_dialled(key: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_public_key(key)


def test_a_public_key_and_none_are_taken() -> None:
    check_public_key(ServerKey.generate().public)
    check_public_key(None)
