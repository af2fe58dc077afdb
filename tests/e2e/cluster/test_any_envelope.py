"""Whatever a server of the cluster says on its link: nothing raises, what is wrong is counted, and the link stays."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.cluster.links import Link
from gatelink.errors import BodyError
from gatelink.session.states import SessionState
from gatelink.wire import envelope
from gatelink.wire.frames import ALL_FLAGS, CONTROL, Frame, encode_frame
from tests.e2e.cluster.support import cluster, gateway_and_lobby, log_in
from tests.e2e.support import until

KINDS = ALL_FLAGS - {CONTROL} | {4, 12}  # messages, requests, answers, failures, and flags that nothing has
SIDS = st.one_of(st.just(0), st.integers(0, 2**64 - 1))  # 0 stands for the player who is there
WHOLE = st.builds(
    encode_frame,
    st.sampled_from([12_001, 13_002, 60_000, 1, 103]),
    st.binary(max_size=20),
    st.sampled_from(sorted(KINDS)),
)
SOME_WHOLE = st.lists(WHOLE, max_size=3)
INNER_IDS = st.sampled_from([12_001, 60_000, 4, 100])
NAMES = st.text(max_size=300).filter(lambda name: len(name.encode("utf-8", "replace")) < 1_000)
U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
FLAGS = st.integers(0, 3)

Make = Callable[[int], bytes]
"""A whole frame, given the sid of the player who is there."""


def made(build: Callable[..., bytes], *fields: st.SearchStrategy[object]) -> st.SearchStrategy[Make]:
    def with_sid(sid: int, values: tuple[object, ...]) -> Make:
        return lambda there: build(sid or there, *values)

    return st.builds(with_sid, SIDS, st.tuples(*fields))


ENVELOPES: st.SearchStrategy[Make] = st.one_of(
    st.builds(
        lambda id, flags, body: lambda _: encode_frame(id, body, flags), st.integers(100, 199), FLAGS, st.binary()
    ),
    st.builds(lambda id, body: lambda _: encode_frame(id, body), U16, st.binary(max_size=40)),  # posts, most of them
    made(
        envelope.client_frames, st.lists(st.tuples(INNER_IDS, st.sampled_from(sorted(KINDS)), st.binary()), max_size=3)
    ),
    made(lambda sid, *rest: envelope.push_frames([sid], *rest), SOME_WHOLE, U8, U64),
    made(lambda sid, *rest: envelope.push_frames([sid, 1, sid], *rest), SOME_WHOLE, U8, U64),
    made(lambda _, *rest: envelope.broadcast_frames(*rest), NAMES, SOME_WHOLE, U8, U64),
    st.builds(lambda on, sids: lambda there: envelope.event(envelope.Connected(on, (there, *sids))), U8, st.lists(U64)),
    made(lambda _, instance: envelope.event(envelope.Run(instance)), NAMES),
    *(
        made(lambda sid, *rest, cls=cls: envelope.event(cls(sid, *rest)), *fields)
        for cls, fields in {
            envelope.SessionOpened: (U64, U8, U64, NAMES, U8, U32, NAMES),
            envelope.SessionOpenedFully: (U64, U8, U64, NAMES, U8, U32, NAMES, U64, U32, U8, U32),
            envelope.Renewed: (NAMES, U32),
            envelope.SessionClosed: (U16,),
            envelope.Bind: (U8, U64),
            envelope.Kick: (U16, NAMES),
            envelope.KickUser: (U16, U64, NAMES),
            envelope.Join: (NAMES,),
            envelope.Leave: (NAMES,),
            envelope.Hold: (U8,),
        }.items()
    ),
)
SERIES = st.lists(ENVELOPES, max_size=12)
MAX_FRAME = 65_536


def is_wrong(frame: Frame, for_gateway: bool) -> bool:
    """Whether nobody can take it for an envelope."""
    id, _, body = frame
    try:
        if not for_gateway and id == envelope.CLIENT_FRAME:
            envelope.open_client_frames(body, MAX_FRAME)
        elif for_gateway and id == envelope.PUSH_FRAME:
            envelope.open_push_frames(body, MAX_FRAME)
        elif for_gateway and id == envelope.BROADCAST_FRAME:
            envelope.open_broadcast_frames(body, MAX_FRAME)
        elif for_gateway and id in (envelope.HANDLED, envelope.LOST_PUSHES):
            envelope.open_handled_counts(body)
        elif 100 <= id <= 199:
            envelope.open_event(id, body, speaks_requests=not for_gateway)
    except BodyError:
        return True
    return False


def split(frame: bytes) -> Frame:
    return int.from_bytes(frame[4:6], "little"), frame[3], frame[6:]


def run(loop: asyncio.AbstractEventLoop, example: Coroutine[Any, Any, None]) -> None:
    """Runs one example of a property, which is checked in a thread, in the loop of the servers."""
    asyncio.run_coroutine_threadsafe(example, loop).result(20)


async def test_any_frames_to_a_gateway() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby):
        router, link = gateway.router, gateway.cluster.links.get(20)
        assert isinstance(link, Link)
        loop = asyncio.get_running_loop()
        sessions = []

        async def example(series: list[Make]) -> None:
            if gateway.sessions.get(7) is None:
                await until(lambda: not router.players)
                sessions.append(await log_in(gateway, 7))
            (there,) = router.players
            frames = [split(make(there)) for make in series]
            before = router.stats.malformed
            router.receive_envelopes(link, frames)
            assert router.stats.malformed - before >= sum(is_wrong(frame, True) for frame in frames)
            await asyncio.sleep(0)
            assert link.session.state is SessionState.OPEN and gateway.cluster.links.get(20) is link

        @settings(max_examples=80, deadline=None)
        @given(SERIES)
        def check(series: list[Make]) -> None:
            run(loop, example(series))

        await asyncio.to_thread(check)
        for held in gateway.sessions:  # from here: one that a Hold left unread does not see its client go
            held.close()
        for session in sessions:
            await session.wait_closed()
        await until(lambda: not router.players and not router.waiting and not any(router.bound.values()))
        assert not gateway.context.groups._members
        await until(lambda: not len(lobby.players))
        assert link.session.state is SessionState.OPEN


async def test_any_frames_to_a_service() -> None:
    async with cluster() as town:
        await town.gateway(1)
        lobby = await town.lobby(20)
        link = lobby.cluster.links.get(1)
        assert isinstance(link, Link)
        loop = asyncio.get_running_loop()

        async def example(series: list[Make]) -> None:
            if lobby.players.by_sid(link, 5) is None:
                lobby.players.opened(link, envelope.SessionOpened(5, 7, 0, 2**64 - 1, "here", 0, 0, ""))
            frames = [split(make(5)) for make in series]
            before = lobby.players.malformed
            lobby.players.receive_envelopes(link, frames)
            assert lobby.players.malformed - before >= sum(is_wrong(frame, False) for frame in frames)
            await asyncio.sleep(0)
            assert link.session.state is SessionState.OPEN and lobby.cluster.links.get(1) is link

        @settings(max_examples=80, deadline=None)
        @given(SERIES)
        def check(series: list[Make]) -> None:
            run(loop, example(series))

        await asyncio.to_thread(check)
        lobby.players.link_closed(link)
        await until(lambda: not lobby.players._by_key and not lobby.players.by_link and not lobby.players._ending)
