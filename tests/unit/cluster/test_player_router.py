"""A gateway's router: to which server a player comes, what that server is told, and what servers do to players."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import replace
from structlog.testing import capture_logs

from gatelink.cluster.links import Link, Links
from gatelink.cluster.player_route import MAX_CLAIMS, PlayerRouter
from gatelink.cluster.registry import Load, ServerInfo, State
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.config import Limits
from gatelink.errors import CloseCode
from gatelink.handlers import Handlers
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.session.extension import Extension
from gatelink.session.groups import MAX_NAME
from gatelink.session.outbox import Full
from gatelink.session.requests import tag_of
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.session.stream import Pause
from gatelink.wire import envelope
from gatelink.wire.control import Features
from gatelink.wire.envelope import (
    MOVED,
    NEW,
    SERVER_DIED,
    Bind,
    Encoded,
    Hold,
    Join,
    Kick,
    Leave,
    LinkReady,
    Run,
    SessionClosed,
    SessionOpened,
)
from gatelink.wire.frames import ALL_FLAGS, ANSWER, FAILED, REQUEST, Frame, FrameDecoder, encode_frame, tagged
from tests.fakes import CATALOG, Bench, FakeHandlers, FakeStream, settle
from tests.unit.cluster.fakes import FakeLink, FakeLinks

LOBBY, ROOM, HERE = 12, 13, 14


def frames(*types: int) -> list[Frame]:
    """One frame for each type of server; the bodies are numbered."""
    return [(type * 1_000, 0, bytes([n])) for n, type in enumerate(types)]


def plain(number: int, size: int = 1) -> bytes:
    """A whole frame for a player."""
    return encode_frame(12_001, bytes([number]) * size)


def envelopes(link: FakeLink) -> list[tuple[int, list[bytes]]]:
    """The envelopes on a link: of each its sid, and the bodies of its frames."""
    found = []
    for each in link.sent:
        if isinstance(each, bytes):
            sid, inner = envelope.open_client_frames(each[6:], 1 << 16)
            found.append((sid, [bytes(body) for _, _, body in inner]))
    return found


def events(link: FakeLink, of: type[Struct] = Struct) -> list[Any]:
    return [each for each in link.sent if isinstance(each, of)]


class Gateway:
    """A router with real sessions, on one fake clock, and links that note what is sent on them."""

    def __init__(self, limits: Limits | None = None, **rules: Rules) -> None:
        self.bench = Bench(limits)
        self.links = FakeLinks()
        self.instances: list[tuple[FakeLink, str]] = []
        self.links.set_instance = lambda link, instance: self.instances.append((link, instance))  # type: ignore[attr-defined]
        self.posts = FakeHandlers()
        self.router = PlayerRouter(
            self.bench.context,
            cast(Links, self.links),
            cast(Handlers, self.posts),
            max_frame=1 << 16,
            table=bytes(id // 1_000 if 12_000 <= id < 60_000 else 0 for id in range(65_536)),
            rules={LOBBY: rules["lobby"]} if "lobby" in rules else {},
            known=(LOBBY, ROOM),
            handled_here={HERE * 1_000},
        )
        self.handlers = Handlers(CATALOG)
        self.handlers.observer = self.router
        self._epochs = iter(range(100, 200))

    def player(self, uid: int = 7, **about: Any) -> tuple[Session, FakeStream]:
        session, stream = self.bench.session(self.handlers, uid=uid, epoch=next(self._epochs), **about)
        session.open()
        return session, stream

    def server(self, id: int, type: int = LOBBY, **about: Any) -> FakeLink:
        """A server whose link has just been made. An odd id: it wants no login events."""
        link = FakeLink(id, type)
        link.room = 1_000
        link.info = replace(link.info, **about)
        self.links[id] = link
        self.router.registry_changed(None, link.info)
        self.router.link_opened(cast(Link, link))
        return link

    def says(self, link: FakeLink, *whole: bytes) -> None:
        """The server at the other end of a link sends envelopes, which arrive together."""
        found: list[Frame] = [(int.from_bytes(each[4:6], "little"), each[3] & 0x3F, each[6:]) for each in whole]
        self.router.receive_envelopes(cast(Link, link), found)

    def tells(self, link: FakeLink, *messages: Struct) -> None:
        self.says(link, *map(envelope.event, messages))

    def drains(self, link: FakeLink) -> None:
        before, link.info = link.info, replace(link.info, state=State.DRAINING)
        self.router.registry_changed(before, link.info)

    def dies(self, link: FakeLink) -> None:
        del self.links[link.id]
        self.router.link_closed(cast(Link, link))


# -- where frames go --


async def test_consecutive_frames_for_one_type_share_an_envelope_and_all_stay_in_order() -> None:
    gateway = Gateway()
    lobby, room = gateway.server(21), gateway.server(23, ROOM)
    session, _ = gateway.player()
    gateway.handlers.dispatch(session, frames(LOBBY, LOBBY, ROOM, LOBBY))
    assert envelopes(lobby) == [(session.epoch, [b"\0", b"\1"]), (session.epoch, [b"\3"])]
    assert envelopes(room) == [(session.epoch, [b"\2"])]
    assert gateway.router.stats.forwarded == 4


@pytest.mark.parametrize("other", [HERE, 0], ids=["a handler here", "no type"])
async def test_with_a_frame_that_is_no_servers_none_of_its_read_is_sent_and_the_table_of_handlers_decides(
    other: int,
) -> None:
    gateway = Gateway()
    lobby = gateway.server(21)
    session, _ = gateway.player()
    assert session.forwarder is not None
    assert not session.forwarder.forward(frames(LOBBY, other, LOBBY))
    assert not lobby.sent[2:] and not gateway.router.stats.forwarded


async def test_frames_for_a_type_that_never_was_there_are_dropped_and_counted_until_one_registers() -> None:
    gateway = Gateway()
    session, stream = gateway.player()
    gateway.handlers.dispatch(session, frames(30, 30))
    assert (gateway.bench.stats.unhandled, gateway.router.stats.held) == (2, 0) and not stream.paused
    gateway.router.registry_changed(None, ServerInfo(id=31, type=30, name="late"))
    gateway.handlers.dispatch(session, frames(30))
    assert (gateway.bench.stats.unhandled, gateway.router.stats.held) == (2, 1)
    assert envelopes(gateway.server(31, 30)) == [(session.epoch, [b"\0"])]


async def test_a_player_gets_no_server_that_drains_and_none_whose_link_is_detached() -> None:
    gateway = Gateway()
    gateway.server(21, state=State.DRAINING)
    gateway.server(23).session.state = SessionState.DETACHED
    good = gateway.server(25, load=Load(sessions=1_000))
    session, _ = gateway.player()
    gateway.handlers.dispatch(session, frames(LOBBY))
    assert envelopes(good) == [(session.epoch, [b"\0"])]


async def test_a_player_that_is_bound_to_a_server_of_another_type_waits_and_then_gets_one_of_the_type() -> None:
    gateway = Gateway()
    lobby, room = gateway.server(21), gateway.server(23, ROOM)
    session, _ = gateway.player()
    gateway.tells(lobby, Bind(session.epoch, LOBBY, room.id))
    gateway.handlers.dispatch(session, frames(LOBBY))
    assert not envelopes(room) and not envelopes(lobby)
    gateway.bench.jump(Rules().hold_seconds + 1)
    assert not envelopes(room) and envelopes(lobby) == [(session.epoch, [b"\0"])]


async def test_players_bound_since_the_last_keepalive_count_as_load_and_the_next_one_begins_anew() -> None:
    gateway = Gateway()
    one, two = gateway.server(21), gateway.server(23, load=Load(sessions=2))
    for uid in range(4):
        gateway.handlers.dispatch(gateway.player(uid)[0], frames(LOBBY))
    assert (len(envelopes(one)), len(envelopes(two))) == (3, 1)
    gateway.router.registry_changed(one.info, one.info)  # the keepalive's load has them already: none, it says
    for uid in range(4, 6):
        gateway.handlers.dispatch(gateway.player(uid)[0], frames(LOBBY))
    assert (len(envelopes(one)), len(envelopes(two))) == (5, 1)


# -- what servers are told --


async def test_a_new_link_begins_with_all_that_its_server_gets_then_says_that_it_is_ready() -> None:
    """docs/protocol.md, "Between servers": SessionOpened for every session of that server, then LinkReady."""
    gateway = Gateway()
    sids = [gateway.player(uid)[0].epoch for uid in (7, 8)]
    link = gateway.server(20)
    assert [each.sid for each in events(link, SessionOpened)] == sids
    assert link.sent[2:] == [LinkReady()]


async def test_a_link_that_nobody_is_bound_to_is_ready_at_once_and_one_that_resumes_does_not_say_it_again() -> None:
    gateway = Gateway()
    link = gateway.server(21)
    assert link.sent == [LinkReady()]
    gateway.router.link_attached(cast(Link, link))
    assert link.sent == [LinkReady()]


async def test_a_server_that_wants_login_events_gets_each_player_once_and_the_others_none_before_its_message() -> None:
    gateway = Gateway()
    before, _ = gateway.player(7)
    wants, does_not = gateway.server(20), gateway.server(23, ROOM)
    after, _ = gateway.player(8)
    gateway.router.link_attached(cast(Link, wants))
    assert [(each.sid, each.type) for each in events(wants, SessionOpened)] == [(before.epoch, NEW), (after.epoch, NEW)]
    assert not events(does_not, SessionOpened)


async def test_a_player_that_waits_gets_the_server_that_comes_and_the_one_whose_link_is_attached_again() -> None:
    gateway = Gateway()
    session, stream = gateway.player()
    gateway.handlers.dispatch(session, frames(LOBBY))
    assert stream.paused == Pause.LINK
    assert envelopes(gateway.server(21)) == [(session.epoch, [b"\0"])] and not stream.paused
    link = gateway.server(23, ROOM)
    link.session.state = SessionState.DETACHED
    gateway.handlers.dispatch(session, frames(ROOM))
    assert not envelopes(link) and stream.paused == Pause.LINK
    link.session.state = SessionState.OPEN
    gateway.router.link_attached(cast(Link, link))
    assert envelopes(link) == [(session.epoch, [b"\0"])] and not stream.paused


async def test_a_server_is_told_with_which_code_its_player_left() -> None:
    gateway = Gateway()
    link = gateway.server(20)
    kicked, _ = gateway.player(7)
    left, _ = gateway.player(8)
    kicked.kick()
    left.lost(None)
    await settle()
    assert events(link, SessionClosed) == [
        SessionClosed(kicked.epoch, CloseCode.KICKED),
        SessionClosed(left.epoch, CloseCode.NORMAL),
    ]
    assert not gateway.router.players and kicked.forwarder is None


@pytest.mark.parametrize("claims", [{"a": object()}, {"a": "x" * MAX_CLAIMS}], ids=["no JSON", "too long"])
async def test_a_player_whose_claims_cannot_be_told_is_closed_and_no_server_hears_of_it(claims: dict[str, Any]) -> None:
    gateway = Gateway()
    link = gateway.server(20)
    session, _ = gateway.player(claims=claims)
    assert session.close_code is CloseCode.INTERNAL_ERROR
    await settle()
    assert not events(link, SessionOpened) and not gateway.router.players


# -- servers that drain and die --


async def test_a_server_that_begins_to_drain_loses_its_players_to_another_once() -> None:
    gateway = Gateway()
    old, new = gateway.server(20), gateway.server(23, load=Load(sessions=50))
    session, _ = gateway.player()
    gateway.drains(old)
    assert events(old, SessionClosed) == [SessionClosed(session.epoch, CloseCode.GOING_AWAY)]
    assert [(each.sid, each.type) for each in events(new, SessionOpened)] == [(session.epoch, MOVED)]
    gateway.tells(old, Bind(session.epoch, LOBBY, old.id))  # it asks for the player back, to end something
    gateway.router.registry_changed(old.info, old.info)  # its next keepalive
    assert len(events(old, SessionOpened)) == 2 and len(events(old, SessionClosed)) == 1
    assert gateway.router.stats.rebinds == 1


async def test_a_server_that_is_seen_first_when_it_drains_loses_its_players_too() -> None:
    """The registry was away, and the server came and began to drain meanwhile."""
    gateway = Gateway()
    old = gateway.server(20)
    session, _ = gateway.player()
    gateway.router.registry_changed(None, replace(old.info, state=State.DRAINING))
    assert events(old, SessionClosed) == [SessionClosed(session.epoch, CloseCode.GOING_AWAY)]


async def test_a_keepalive_and_an_entry_that_is_gone_move_nobody() -> None:
    gateway = Gateway()
    link = gateway.server(20)
    gateway.player()
    gateway.router.registry_changed(link.info, link.info)
    gateway.router.registry_changed(link.info, None)
    assert len(events(link, SessionOpened)) == 1 and not events(link, SessionClosed)


async def test_of_a_dead_server_what_was_only_queued_goes_on_and_what_was_sent_is_told_as_lost() -> None:
    gateway = Gateway()
    old, new = gateway.server(20), gateway.server(23, load=Load(sessions=50))
    session, _ = gateway.player(7)
    left, _ = gateway.player(8)
    gateway.handlers.dispatch(session, frames(LOBBY, LOBBY, LOBBY))  # sent, and not acknowledged
    gateway.handlers.dispatch(left, frames(LOBBY))  # only queued, as the next
    gateway.handlers.dispatch(session, [(12_000, 0, b"queued")])
    old.unacknowledged = [each for each in old.sent if isinstance(each, bytes)][:1]
    left.lost(None)
    await settle()
    old.sent.pop()  # SessionClosed of the one that left
    gateway.dies(old)
    assert envelopes(new) == [(session.epoch, [b"queued"])]
    assert [(each.sid, each.type, each.lost) for each in events(new, SessionOpened)] == [
        (session.epoch, SERVER_DIED, 3)
    ]
    assert gateway.router.stats.lost == {LOBBY: 4}, "and the one of the player that left"
    assert [link.id for link in gateway.router.bound] == [new.id]


async def test_a_player_whose_messages_were_lost_comes_to_a_server_that_wants_login_events_as_from_a_dead_one() -> None:
    gateway = Gateway(lobby=Rules(on_death=OnDeath.DROP))
    session, _ = gateway.player()
    gateway.handlers.dispatch(session, frames(LOBBY, LOBBY))
    (opened,) = events(gateway.server(20), SessionOpened)
    assert (opened.type, opened.lost) == (SERVER_DIED, 2)


async def test_all_players_of_a_crowded_link_are_read_again_when_it_has_room_but_those_that_left() -> None:
    gateway = Gateway()
    link = gateway.server(20)
    link.room = 0
    players = [gateway.player(uid) for uid in (7, 8, 9)]
    for session, stream in players:
        gateway.handlers.dispatch(session, frames(LOBBY))
        assert stream.paused == Pause.LINK
    left, its_stream = players.pop()
    left.close()
    paused = its_stream.paused
    link.relieve()
    assert [stream.paused for _, stream in players] == [Pause(0)] * 2
    assert its_stream.paused == paused and not gateway.router.crowded


# -- what servers send to players --


async def test_a_push_reaches_the_players_that_it_names_and_is_counted_for_those_that_are_not_here() -> None:
    gateway = Gateway()
    link = gateway.server(21)
    (one, stream), (two, other) = gateway.player(7), gateway.player(8)
    gateway.says(
        link,
        envelope.push_to_one(one.epoch, [plain(1), plain(2)]),
        envelope.push_frames([one.epoch, 999, two.epoch], [plain(3)]),
    )
    await settle()
    assert [body for _, _, body in stream.frames] == [b"\1", b"\2", b"\3"]
    assert [body for _, _, body in other.frames] == [b"\3"]
    assert (gateway.router.stats.pushed, gateway.router.stats.misdirected) == (4, 1)


async def test_a_broadcast_reaches_everybody_or_the_members_of_its_group() -> None:
    gateway = Gateway()
    link = gateway.server(21)
    (one, stream), (_, other) = gateway.player(7), gateway.player(8)
    gateway.tells(link, Join(one.epoch, "12/red"))
    red = envelope.broadcast_frames("12/red", [plain(1)])
    gateway.says(link, red, envelope.broadcast_frames("", [plain(2)]))
    gateway.tells(link, Leave(one.epoch, "12/red"))
    gateway.says(link, red)
    await settle()
    assert [body for _, _, body in stream.frames] == [b"\1", b"\2"]
    assert [body for _, _, body in other.frames] == [b"\2"]
    assert gateway.router.stats.pushed == 3


@pytest.mark.parametrize(
    ("policy", "key", "left"),
    [(Full.DROP_NEWEST, 0, [1, 2]), (Full.DROP_OLDEST, 0, [2, 3]), (Full.CLOSE, 5, [2, 3])],
)
async def test_the_policy_and_the_key_of_a_push_are_those_of_its_frames(
    policy: Full, key: int, left: list[int]
) -> None:
    gateway = Gateway(Limits(max_outbox_frames=2))
    link = gateway.server(21)
    session, stream = gateway.player()
    stream.writable = False  # so that all of it waits
    number = (Full.CLOSE, Full.DROP_OLDEST, Full.DROP_NEWEST).index(policy)
    first = plain(1), plain(2)
    if key:
        session.send_frame(first[0], key)
        session.send_frame(first[1])
    else:
        session.send_frames(list(first))
    gateway.says(link, envelope.push_frames([session.epoch], [plain(3)], number, key))
    kept = [each[6] for each in session.outbox.drain()]
    assert sorted(kept) == left and session.close_code is None


@pytest.mark.parametrize("is_push", [True, False], ids=["push", "broadcast"])
async def test_what_is_larger_than_this_gateway_takes_is_dropped_and_counted_and_the_rest_arrives(
    is_push: bool,
) -> None:
    gateway = Gateway(Limits(max_outbox_bytes=1_000))
    link = gateway.server(21)
    session, stream = gateway.player()
    most = gateway.bench.context.max_message
    all_of_it = [plain(1), plain(2, most - 5), plain(3, most - 6), plain(4)]
    whole = envelope.push_to_one(session.epoch, all_of_it) if is_push else envelope.broadcast_frames("", all_of_it)
    gateway.says(link, whole)
    await settle()
    assert [body[:1] for _, _, body in stream.frames] == [b"\1", b"\3", b"\4"]
    assert (gateway.router.stats.malformed, gateway.router.stats.pushed) == (1, 3)
    assert session.close_code is None


@pytest.mark.parametrize("is_full", [False, True], ids=["room on the link", "a full link"])
async def test_a_request_that_is_too_large_is_refused_as_the_player_would_and_the_rest_of_the_push_arrives(
    is_full: bool,
) -> None:
    gateway = Gateway(Limits(max_outbox_bytes=1_000))
    link = gateway.server(21)
    link.speaks_requests = True
    extension = Extension(Features.REQUESTS, gateway.bench.context.limits, accepting=True)
    session, stream = gateway.player(extension=extension)
    session.receive([(LOBBY * 1_000, REQUEST, (9).to_bytes(4, "little"))])
    route = gateway.router.players[session.epoch].to(LOBBY)
    before, route.unhandled = len(link.sent), 0
    link.is_full = is_full
    asked = LOBBY | route.binding << 8
    large = tagged(plain(2, gateway.bench.context.max_message), asked, REQUEST)
    gateway.says(link, envelope.push_to_one(session.epoch, [tagged(plain(1), 9, ANSWER), large, plain(3)]))
    await settle()
    decoder = FrameDecoder(1_000)
    decoder.allowed = ALL_FLAGS
    got = decoder.feed(b"".join(stream.writes))
    assert [(flags, body[-1:]) for _, flags, body in got] == [(ANSWER, b"\1"), (0, b"\3")]
    assert (gateway.router.stats.malformed, gateway.router.stats.lost[LOBBY]) == (1, int(is_full))
    if is_full:
        assert len(link.sent) == before and not route.unhandled
    else:
        _, ((_, flags, body),) = envelope.open_client_frames(link.sent[-1][6:], 1 << 16)
        assert (flags, tag_of(body), route.unhandled) == (FAILED, asked, 1), "it counts until it is handled"


async def test_frames_that_fit_arrive_though_their_envelope_is_larger_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatelink.cluster.player_route.quiet", RateLimitedLogger(Logger("gatelink.gateway")))
    gateway = Gateway(Limits(max_outbox_bytes=1_000))
    link = gateway.server(21)
    session, stream = gateway.player()
    with capture_logs() as lines:
        gateway.says(link, envelope.push_to_one(session.epoch, [plain(n, 400) for n in (1, 2, 3)]))
        await settle()
    assert [body[:1] for _, _, body in stream.frames] == [b"\1", b"\2", b"\3"]
    assert not lines and not gateway.router.stats.malformed


async def test_what_is_for_a_player_that_has_just_ended_is_counted_and_harms_no_other() -> None:
    gateway = Gateway()
    link = gateway.server(21)
    (one, _), (two, stream) = gateway.player(7), gateway.player(8)
    one.close()
    gateway.says(link, envelope.push_frames([one.epoch, two.epoch], [plain(1)]))
    for event in (Bind(one.epoch, LOBBY, 21), Kick(one.epoch, 4009, ""), Join(one.epoch, "g"), Hold(one.epoch, 1)):
        gateway.tells(link, event)
    gateway.tells(link, Kick(999, 4009, ""))
    await settle()
    assert [body for _, _, body in stream.frames] == [b"\1"]
    assert gateway.router.stats.misdirected == 6 and gateway.router.stats.pushed == 1
    assert not events(link, SessionOpened) and one.close_code is CloseCode.NORMAL


# -- events and posts --


async def test_a_server_kicks_binds_and_holds_a_player() -> None:
    gateway = Gateway()
    one, two = gateway.server(20), gateway.server(23, load=Load(sessions=50))
    session, stream = gateway.player()
    gateway.tells(one, Hold(session.epoch, 1))
    assert stream.paused == Pause.HANDLERS
    gateway.tells(two, Hold(session.epoch, 0))  # it is not the player's server
    assert stream.paused == Pause.HANDLERS
    gateway.tells(one, Hold(session.epoch, 0))
    assert not stream.paused
    gateway.tells(one, Bind(session.epoch, LOBBY, two.id))
    assert events(one, SessionClosed) == [SessionClosed(session.epoch, CloseCode.NORMAL)]
    assert [(each.sid, each.type) for each in events(two, SessionOpened)] == [(session.epoch, MOVED)]
    gateway.tells(two, Kick(session.epoch, CloseCode.RATE_LIMITED, "too fast"))
    assert (session.close_code, session.close_reason) == (CloseCode.RATE_LIMITED, "too fast")


async def test_the_run_of_the_other_end_is_noted_for_its_link() -> None:
    gateway = Gateway()
    link = gateway.server(21)
    gateway.tells(link, Run("another"))
    assert gateway.instances == [(link, "another")]


@pytest.mark.parametrize("id", [99, 200])
async def test_a_message_between_servers_goes_to_its_handlers(id: int) -> None:
    gateway = Gateway()
    gateway.says(gateway.server(21), encode_frame(id, b"post", 1))
    assert gateway.posts.received == [(id, 1, b"post")] and not gateway.router.stats.malformed


def not_for_a_gateway() -> Iterator[Any]:
    opened = SessionOpened(1, 1, 0, 1, "", 0, 0, "")
    yield pytest.param(envelope.event(opened), id="SessionOpened")
    yield pytest.param(envelope.event(SessionClosed(1, 4000)), id="SessionClosed")
    yield pytest.param(envelope.event(LinkReady()), id="LinkReady")
    yield pytest.param(envelope.client_frames(100, [(12_000, 0, b"")]), id="ClientFrame")
    yield pytest.param(encode_frame(112, b""), id="an unknown envelope")
    yield pytest.param(encode_frame(199, b""), id="the last id of envelopes")
    yield pytest.param(encode_frame(105, b"\0"), id="a Bind that is cut short")
    yield pytest.param(encode_frame(101, b""), id="an empty PushFrame")
    yield pytest.param(envelope.push_frames([100], [plain(1)], policy=3), id="an unknown policy")
    yield pytest.param(envelope.event(Join(100, "")), id="a group without a name")
    yield pytest.param(envelope.event(Join(100, "g" * (MAX_NAME + 1))), id="a group's name that is too long")
    yield pytest.param(envelope.broadcast_frames("g" * (MAX_NAME + 1), [plain(1)]), id="a broadcast to such a group")


@pytest.mark.parametrize("wrong", list(not_for_a_gateway()))
async def test_an_envelope_that_a_gateway_cannot_use_is_counted_and_those_behind_it_are_handled(wrong: Encoded) -> None:
    gateway = Gateway()
    link = gateway.server(21)
    session, stream = gateway.player()
    assert session.epoch == 100
    gateway.says(link, wrong, envelope.push_to_one(session.epoch, [plain(1)]))
    await settle()
    assert [body for _, _, body in stream.frames] == [b"\1"]
    assert gateway.router.stats.malformed == 1 and not gateway.posts.received
    assert session.close_code is None and not gateway.bench.context.groups.of(session)


async def test_what_is_dropped_has_a_line_in_the_log_that_names_it_and_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("player_route", "type_route"):
        monkeypatch.setattr(f"gatelink.cluster.{module}.quiet", RateLimitedLogger(Logger("gatelink.gateway")))
    gateway = Gateway(Limits(max_outbox_bytes=1_000), lobby=Rules(hold_seconds=1.0))
    link = gateway.server(21, ROOM)
    secret = b"hunter2"
    with capture_logs() as lines:
        session, _ = gateway.player(7)
        gateway.player(8, claims={"a": "hunter2" * MAX_CLAIMS})
        gateway.handlers.dispatch(session, [(30_000, 0, secret)])
        gateway.handlers.dispatch(session, [(LOBBY * 1_000, 0, secret)])
        gateway.bench.jump(2.0)
        gateway.says(link, encode_frame(105, secret), envelope.push_to_one(session.epoch, [secret_frame(secret)]))
    assert [set(line) - {"event", "log_level"} for line in lines] == [
        {"uid", "error"},  # a player whose claims are too long
        {"type", "uid"},  # messages for a type of server that nobody knows
        {"type", "uid"},  # messages that no server came for
        {"server", "id", "error"},  # an envelope that does not decode
        {"bytes", "most"},  # a message that is too large
    ]
    assert len({line["event"] for line in lines}) == 5
    assert "hunter2" not in repr(lines)


def secret_frame(secret: bytes) -> bytes:
    return encode_frame(12_001, secret * 1_000)


async def test_a_player_goes_to_a_server_that_was_heard_lately_if_there_is_one() -> None:
    gateway = Gateway()
    silent, well = gateway.server(21), gateway.server(23)
    silent.is_well = False
    first, _ = gateway.player(7)
    first.receive([(LOBBY * 1_000, 0, b"1")])
    assert not envelopes(silent) and len(envelopes(well)) == 1
    well.is_well = False
    second, _ = gateway.player(8)
    second.receive([(LOBBY * 1_000, 0, b"2")])
    assert len(envelopes(silent)) == 1, "better than none"


async def test_a_silent_server_is_given_up_after_its_time_if_another_is_well_and_else_as_soon_as_one_is() -> None:
    gateway = Gateway(lobby=Rules(give_up_seconds=20.0))
    given_up: list[FakeLink] = []
    gateway.links.give_up = lambda link, why: given_up.append(link)  # type: ignore[attr-defined]
    silent, other = gateway.server(21), gateway.server(23)
    silent.session.state = SessionState.DETACHED
    silent.silent, silent.is_well, other.is_well = 12.0, False, False
    gateway.router.link_detached(cast(Link, silent))
    for seconds in range(13, 31):
        await gateway.bench.pass_time(1.0)
        silent.silent = float(seconds)
    assert given_up == []
    other.is_well = True
    await gateway.bench.pass_time(1.0)
    assert given_up == [silent]


async def test_a_server_that_is_back_in_time_is_not_given_up() -> None:
    gateway = Gateway()
    given_up: list[FakeLink] = []
    gateway.links.give_up = lambda link, why: given_up.append(link)  # type: ignore[attr-defined]
    back, _ = gateway.server(21), gateway.server(23)
    back.session.state = SessionState.DETACHED
    back.silent = 9.0
    gateway.router.link_detached(cast(Link, back))
    back.session.state = SessionState.OPEN
    back.silent = 11.0
    await gateway.bench.pass_time(30.0)
    assert given_up == []
