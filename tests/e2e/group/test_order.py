"""Whatever is said in whatever turns, and wherever the link breaks: each hears what is for it, in order, once."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.testing import ChaosProxy
from tests.e2e.group.support import LOBBY, Client, Recorder, Say, between, group, player
from tests.e2e.group.test_any_envelope import run
from tests.e2e.support import until

UIDS = (7, 8, 9)
GROUPS = ("red", "blue")
UID, GROUP = st.sampled_from(UIDS), st.sampled_from(GROUPS)
DEED = st.one_of(
    st.tuples(st.just("to one"), UID, st.sampled_from([0, 0, 0, 30_000])),  # the bytes of its text; a turn packs 64 KiB
    st.tuples(st.just("to some"), st.sets(UID)),
    st.tuples(st.just("to all"), st.just("")),
    st.tuples(st.just("to a group"), GROUP),
    st.tuples(st.just("join"), UID, GROUP),
    st.tuples(st.just("leave"), UID, GROUP),
    st.tuples(st.just("say"), UID, st.integers(1, 5)),
)
TURNS = st.lists(st.lists(DEED, max_size=12), max_size=6)
BREAKS = st.sets(st.integers(0, 5))
"""Before which turns the link breaks."""


class Story:
    """What is done, and what each must have heard of it at the end."""

    def __init__(self, lobby: Recorder, clients: dict[int, Client]) -> None:
        self.lobby = lobby
        self.clients = clients
        self.heard: dict[int, list[int]] = {uid: [] for uid in UIDS}
        self.said: dict[int, list[int]] = {uid: [] for uid in UIDS}
        self.members: dict[str, set[int]] = {name: set() for name in GROUPS}
        self.n = 0

    def do(self, deed: tuple[Any, ...]) -> None:
        self.n += 1
        players = {uid: self.lobby.player(uid) for uid in UIDS}
        match deed:
            case "to one", uid, size:
                players[uid].send(Say(self.n, "x" * size))
                self.reaches([uid])
            case "to some", uids:
                self.lobby.players.broadcast(Say(self.n), [players[uid] for uid in uids])
                self.reaches(uids)
            case "to all", _:
                self.lobby.broadcast(Say(self.n))
                self.reaches(UIDS)
            case "to a group", name:
                self.lobby.broadcast(Say(self.n), name)
                self.reaches(self.members[name])
            case "join", uid, name:
                players[uid].join(name)
                self.members[name].add(uid)
            case "leave", uid, name:
                players[uid].leave(name)
                self.members[name].discard(uid)
            case "say", uid, count:
                numbers = [self.n * 10 + i for i in range(count)]
                self.clients[uid].say(*numbers)
                self.said[uid] += numbers

    def reaches(self, uids: Sequence[int] | set[int]) -> None:
        for uid in uids:
            self.heard[uid].append(self.n)

    def is_told(self) -> bool:
        """Whether each has heard all. Nobody may have heard anything else, or in another order."""
        told = [(self.clients[uid].heard, self.heard[uid]) for uid in UIDS]
        told += [(self.lobby.numbers(uid), self.said[uid]) for uid in UIDS]
        for heard, expected in told:
            assert heard == expected[: len(heard)]
        return all(len(heard) == len(expected) for heard, expected in told)


async def test_each_hears_what_is_for_it_in_order_over_breaks_of_the_link() -> None:
    async with group() as town, AsyncExitStack() as stack:
        gateway = await town.gateway(1)
        lobby = Recorder("lobby", LOBBY, member=town.member(20))
        proxy: ChaosProxy = await stack.enter_async_context(between(lobby))
        await town.start(lobby)
        clients = {uid: await stack.enter_async_context(player(gateway, uid)) for uid in UIDS}
        await until(lambda: len(lobby.players) == len(UIDS))
        loop = asyncio.get_running_loop()

        async def example(turns: list[list[tuple[Any, ...]]], breaks: set[int]) -> None:
            story = Story(lobby, clients)
            lobby.heard.clear()
            for client in clients.values():
                client.heard.clear()
            for at, turn in enumerate(turns):
                if at in breaks:
                    proxy.cut_all()
                for deed in turn:
                    story.do(deed)
                await asyncio.sleep(0)
            await until(story.is_told, "each has heard what is for it, in order")
            await asyncio.sleep(0)
            assert story.is_told(), "and nothing twice"
            for uid in UIDS:
                for name in GROUPS:
                    lobby.player(uid).leave(name)

        @settings(max_examples=100, deadline=None)
        @given(TURNS, BREAKS)
        def check(turns: list[list[tuple[Any, ...]]], breaks: set[int]) -> None:
            run(loop, example(turns, breaks))

        await asyncio.to_thread(check)
        assert not lobby.strays and not gateway.relay.stats.lost and not gateway.relay.stats.malformed
        await town.kill(lobby)
