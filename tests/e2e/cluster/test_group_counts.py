"""The members of a broadcast group are counted at all gateways, in bounded time, and missing answers are named."""

from typing import Any

import pytest

from gatelink import LocalError, Service, Session
from gatelink.cluster.group_counts import GroupCount
from gatelink.session.groups import MAX_NAME
from tests.e2e.cluster.support import Say, cluster, player
from tests.e2e.support import until


async def test_members_at_all_gateways_are_counted_until_they_leave_or_end() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby, other, room = await town.lobby(20), await town.lobby(21), await town.room(30)
        assert await lobby.cluster.count("red") == GroupCount(0)
        async with player(one, 7) as first, player(two, 8) as second, player(two, 9) as third:
            for each in (first, second, third):
                await each.ask(1)
            for uid in (7, 8, 9):
                found = lobby.players.get(uid) or other.players.get(uid)
                assert found is not None
                found.join("red")
            await until_count(lobby, "red", 3)
            assert await other.cluster.count("red") == GroupCount(3), "a group belongs to all services of its type"
            assert await room.cluster.count("red") == GroupCount(0)
            assert await one.cluster.count("12/red") == GroupCount(3)
            there = one.sessions.get(7)
            assert isinstance(there, Session)
            there.join("red")
            assert await two.cluster.count("red") == GroupCount(1), "a group of the gateways' own handlers"
        await until(lambda: not len(one.sessions) and not len(two.sessions))
        assert await lobby.cluster.count("red") == GroupCount(0)
        wrong: tuple[Any, ...] = ("", "x" * (MAX_NAME + 1), 5, b"red")
        for name in wrong:
            with pytest.raises(LocalError, match="a group's name"):
                await lobby.cluster.count(name)
            with pytest.raises(LocalError, match="a group's name"):
                lobby.broadcast_to(name, Say(1))


async def until_count(server: Service, group: str, members: int) -> None:
    """Ask until there are so many; each answer takes a round trip."""
    found = await server.cluster.count(group)
    for _ in range(1_000):
        if found.members == members:
            return
        found = await server.cluster.count(group)
    raise AssertionError(f"{found} in {group}")


async def test_a_gateway_that_can_not_count_groups_is_named() -> None:
    async with cluster() as town:
        one, two = await town.gateway(1), await town.gateway(2)
        lobby = await town.lobby(20)
        async with player(one, 7) as first:
            await first.ask(1)
            found = lobby.players.get(7)
            assert found is not None
            found.join("red")
            await until_count(lobby, "red", 1)
            assert two._counts is not None
            await two._counts.close()
            assert await lobby.cluster.count("red") == GroupCount(1, (2,))
            assert one._counts is not None
            await one._counts.close()
            assert await lobby.cluster.count("red") == GroupCount(0, (1, 2))
