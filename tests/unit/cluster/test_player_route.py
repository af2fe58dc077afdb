"""What a gateway tells a service of a player's claims."""

import json

import pytest

from gatelink.cluster.player_route import MAX_CLAIMS, claims_text
from gatelink.errors import LocalError


def test_claims_are_told_as_json_and_no_claims_as_nothing() -> None:
    assert json.loads(claims_text({"role": "admin", "level": 3})) == {"role": "admin", "level": 3}
    assert claims_text({}) == ""


def test_claims_have_room_up_to_the_limit_and_not_beyond() -> None:
    room = MAX_CLAIMS - len('{"a":""}')
    assert len(claims_text({"a": "x" * room})) == MAX_CLAIMS
    with pytest.raises(LocalError, match=f"claims of {MAX_CLAIMS + 1} bytes; a service can be told {MAX_CLAIMS}"):
        claims_text({"a": "x" * (room + 1)})


def test_claims_that_json_has_not_are_refused() -> None:
    with pytest.raises(TypeError):
        claims_text({"a": object()})
