"""How a gateway picks a server for a player."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gatelink.cluster.links import Link
from gatelink.cluster.player_route import pick
from gatelink.cluster.routes import Pick

PLAYERS = range(1, 2_001)


def server(id: int, sessions: int = 0) -> Link:
    """What a choice depends on: the id of a server, and the load that its last keepalive told."""
    return cast(Link, SimpleNamespace(id=id, info=SimpleNamespace(load=SimpleNamespace(sessions=sessions))))


def nobody_since(id: int) -> int:
    return 0


def picked(servers: list[Link], how: Pick, uid: int = 7, fresh: Any = nobody_since) -> int:
    link = pick(servers, how, uid, fresh)
    assert link is not None
    return link.id


@pytest.mark.parametrize("how", Pick)
def test_of_no_servers_there_is_none_to_pick(how: Pick) -> None:
    assert pick([], how, 7, nobody_since) is None


def test_the_least_loaded_has_the_fewest_players_counting_those_bound_since_it_told() -> None:
    servers = [server(1, 5), server(2, 3), server(3, 4)]
    assert picked(servers, Pick.LEAST_LOADED) == 2
    assert picked(servers, Pick.LEAST_LOADED, fresh={1: 0, 2: 2, 3: 0}.__getitem__) == 3
    assert picked(servers, Pick.LEAST_LOADED, fresh={1: 0, 2: 1, 3: 0}.__getitem__) == 2, "of equals the lower id"


def test_by_rendezvous_a_player_comes_to_one_server_whatever_its_load_and_in_whatever_order_they_are() -> None:
    servers = [server(id) for id in (20, 21, 22)]
    for uid in PLAYERS[:50]:
        there = picked(servers, Pick.RENDEZVOUS, uid)
        assert picked(servers[::-1], Pick.RENDEZVOUS, uid) == there
        crowded = [server(id, 1_000 * (id == there)) for id in (20, 21, 22)]
        assert picked(crowded, Pick.RENDEZVOUS, uid, fresh=lambda id: id) == there


def test_by_rendezvous_only_the_players_of_a_server_that_goes_move_and_each_has_its_share() -> None:
    ids = [20, 21, 22, 2**40]
    before = {uid: picked([server(id) for id in ids], Pick.RENDEZVOUS, uid) for uid in PLAYERS}
    after = {uid: picked([server(id) for id in ids if id != 21], Pick.RENDEZVOUS, uid) for uid in PLAYERS}
    assert {uid for uid in PLAYERS if before[uid] != after[uid]} == {uid for uid in PLAYERS if before[uid] == 21}
    assert all(400 < count < 600 for count in Counter(before.values()).values())
    moved = Counter(after[uid] for uid in PLAYERS if before[uid] == 21)
    assert set(moved) == {20, 22, 2**40} and all(count > 100 for count in moved.values())


def test_gateways_of_any_version_agree_on_the_server_of_a_player() -> None:
    """The choice is in no table, so the hash must stay."""
    servers = [server(id) for id in (20, 21, 22)]
    players = (1, 2, 3, 4, 5, 6, 2**64 - 1)
    assert [picked(servers, Pick.RENDEZVOUS, uid) for uid in players] == [20, 20, 22, 21, 22, 20, 20]
