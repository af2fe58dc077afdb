"""A link's envelopes: in whatever order and sizes frames are sent, each player's stay in order and fit."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gatelink import LINK_LIMITS, LocalError, _native
from gatelink.cluster.links import Link
from gatelink.cluster.registry import ServerInfo
from gatelink.errors import MessageTooLarge
from gatelink.session.outbox import OutboxFull
from gatelink.session.session import Session
from gatelink.stats import Stats
from gatelink.wire import envelope
from gatelink.wire.envelope import PUSH_HEAD, Kick
from gatelink.wire.frames import HEADER_SIZE, FrameDecoder, encode_frame
from tests.fakes import FakeHandlers
from tests.twins import core, twins

LIMITS = replace(LINK_LIMITS, max_frame=900, max_outbox_bytes=10_000)
LARGEST = LIMITS.max_frame + HEADER_SIZE
BODIES = st.one_of(st.integers(4, 60), st.integers(LARGEST - PUSH_HEAD - 10, LARGEST - PUSH_HEAD - 4))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("to"), st.integers(1, 3), BODIES),
        st.tuples(st.just("all"), st.just(0), BODIES),
        st.tuples(st.just("kick"), st.just(0), st.just(0)),
        st.tuples(st.just("out"), st.just(0), st.just(0)),  # what is queued leaves
    ),
    max_size=60,
)


def session_on(stream: Any = None, **context: Any) -> Session:
    """As much of a session as a link needs, on a context that flushes nothing by itself."""
    there: Any = SimpleNamespace(
        encoders={},
        stats=Stats(),
        schedule_flush=lambda _: None,
        wheel=SimpleNamespace(read_clock=lambda: 0.0),
        **context,
    )
    owner: Any = SimpleNamespace(accepting=True)
    return Session(there, owner, FakeHandlers(), stream, uid=1)


def link_on(session: Session) -> Link:
    receiver: Any = None
    return Link(ServerInfo(id=1, type=1, name="gateway"), session, receiver)


def test_a_crowded_link_is_relieved_at_its_low_water_though_it_is_never_empty() -> None:
    stream = SimpleNamespace(writable=True, write=lambda data: None)
    session = session_on(stream, limits=replace(LIMITS, write_high_water=900), loop=Loop())
    link = link_on(session)
    frame = encode_frame(12_001, bytes(294))
    relieved: list[int] = []
    while not link.push(frame):
        pass
    assert session.outbox.bytes > LIMITS.max_outbox_bytes // 4
    link.when_relieved(lambda: relieved.append(session.outbox.bytes))
    for _ in range(20):  # three frames leave with each write, and as many come: it stays above
        session.flush()
        for _ in range(3):
            link.session.send_frame(frame)
    assert not relieved and session.outbox.bytes > LIMITS.max_outbox_bytes // 8
    while session.outbox.bytes > LIMITS.max_outbox_bytes // 8:
        session.flush()
    assert len(relieved) == 1 and 0 < relieved[0] <= LIMITS.max_outbox_bytes // 8
    session.flush()
    assert len(relieved) == 1 and session.on_written is None


class Loop:
    """Calls at once what is to be called soon."""

    def call_soon(self, call: Callable[[], None]) -> None:
        call()


def path_on(LinkPath: Any, session: Session) -> Any:
    """A link with that twin of its path."""
    path = type(
        "Path",
        (LinkPath,),
        {name: vars(Link)[name] for name in ("_check_room", "_too_large", "send_event", "send_whole")},
    )
    path.id = 1  # type: ignore[attr-defined]
    return path(session, None, LARGEST, min(LARGEST, LIMITS.max_outbox_bytes // 8))


@twins("LinkPath")
@given(steps=STEPS)
def test_each_player_gets_what_was_taken_in_its_order_whatever_comes_between(
    LinkPath: Any,
    steps: list[tuple[str, int, int]],
) -> None:
    """A frame that is refused leaves no trace, and none is that is small enough while nothing waits.

    Should a link overflow, which would end it, this fails in `Session._make_room`.
    """
    session = session_on(limits=LIMITS)
    link = path_on(LinkPath, session)
    outbox = session.outbox
    wire = b""
    due: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for n, (what, sid, size) in enumerate(steps):
        waits = outbox.count or link.held_bytes
        frame = encode_frame(12_001, n.to_bytes(4, "little") + bytes(size - 4 if size else 0))
        taken = True
        try:
            if what == "to":
                link.push_to(sid, frame)
            elif what == "all":
                link.push(envelope.broadcast_frames("", [frame]))
            elif what == "kick":
                link.send_event(Kick(n, 4009, ""))
            else:
                link.pack()
                wire += outbox.take(1 << 20)
        except OutboxFull:
            assert waits
            taken = False
        except MessageTooLarge:
            assert len(frame) + PUSH_HEAD > LARGEST
            taken = False
        if taken and what != "out":
            for player in (sid,) if sid else due:
                due[player].append(n)
    link.pack()
    assert not link.held_bytes and not session.context.stats.dropped
    decoder = FrameDecoder(LIMITS.max_frame, 1_000, 1 << 20)
    got: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for id, _, body in decoder.feed(wire + outbox.take(1 << 20)):
        sids: tuple[int, ...] = tuple(got)
        frames: Sequence[bytes]
        if id == envelope.PUSH_FRAME:
            sids, _, _, frames = envelope.open_push_frames(body, LIMITS.max_frame)
        elif id == envelope.BROADCAST_FRAME:
            _, _, _, frames = envelope.open_broadcast_frames(body, LIMITS.max_frame)
        else:
            frames = [bytes(6) + envelope.open_event(id, body).sid.to_bytes(4, "little")]
        for sid in sids:
            got[sid] += [int.from_bytes(frame[6:10], "little") for frame in frames]
    assert decoder.error is None and not decoder.buffered
    assert got == due


@pytest.mark.skipif(core is None, reason="the compiled core is not built here")
@given(STEPS)
def test_both_twins_make_the_same_envelopes_and_refuse_the_same(steps: list[tuple[str, int, int]]) -> None:
    outcomes = []
    for LinkPath in (_native.pure["LinkPath"], core.LinkPath):
        session = session_on(limits=LIMITS)
        link = path_on(LinkPath, session)
        seen: list[Any] = []
        for n, (what, sid, size) in enumerate(steps):
            frame = encode_frame(12_001, n.to_bytes(4, "little") + bytes(size - 4 if size else 0))
            try:
                if what == "to":
                    link.push_to(sid, frame)
                elif what == "all":
                    seen.append(link.push(envelope.broadcast_frames("", [frame])))
                elif what == "kick":
                    link.send_event(Kick(n, 4009, ""))
                else:
                    link.flush()
                    seen.append(session.outbox.take(1 << 20))
            except (OutboxFull, MessageTooLarge) as error:
                seen.append(str(error))
            seen.append(link.held_bytes)
        link.pack()
        outcomes.append((seen, session.outbox.take(1 << 20)))
    assert outcomes[0] == outcomes[1]


@twins("LinkPath")
def test_what_another_thread_pushes_is_refused_and_the_next_push_still_leaves(LinkPath: Any) -> None:
    session = session_on(limits=LIMITS)
    link = path_on(LinkPath, session)
    scheduled: list[Any] = []

    def refuse(_: Any) -> None:
        raise LocalError("another thread")

    context: Any = session.context
    context.schedule_flush = refuse
    with pytest.raises(LocalError):
        link.push_to(1, encode_frame(12_001, b"no"))
    assert not link.held_bytes
    context.schedule_flush = scheduled.append
    link.push_to(1, encode_frame(12_001, b"yes"))
    assert scheduled == [link]
