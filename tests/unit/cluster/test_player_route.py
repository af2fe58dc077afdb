"""A player's routes at a gateway: the table of states, and that whatever happens leaves every table agreeing."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatelink.cluster.player_route import MAX_CLAIMS, PlayerRouter, claims_text
from gatelink.cluster.registry import ServerInfo, State
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.cluster.type_route import ROUTE, RouteEvent, RouteState
from gatelink.errors import CloseCode, LocalError, RequestCode, SessionClosed
from gatelink.session.requests import Requests, tag_of
from gatelink.session.states import SessionState, step
from gatelink.session.stream import Pause
from gatelink.wire import envelope
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, Frame, encode_frame, tagged
from tests.unit.cluster.fakes import FakeLink, FakeLinks

LOBBY, ROOM = 12, 13
TYPES = (LOBBY, ROOM)
PLAYERS = (1, 2, 3)
SERVERS = (20, 21, 22)
BASE_PLAYER, OLD_SERVER = 3, 21
"""The player that speaks no requests, and the older server, which speaks none either."""


def test_every_state_can_be_reached_and_left_and_other_events_raise() -> None:
    assert {state for state, _ in ROUTE} == set(ROUTE.values()) == set(RouteState)
    for state in RouteState:
        for event in RouteEvent:
            if (state, event) not in ROUTE:
                with pytest.raises(RuntimeError, match="cannot happen"):
                    step(ROUTE, state, event)


class FakeWheel:
    """Calls what is due when the model says so."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call(self, seconds: float, call: Any) -> Any:
        item = SimpleNamespace(call=call)
        self.due.append(item)
        return item

    def cancel(self, item: Any) -> None:
        if item in self.due:
            self.due.remove(item)


def split(whole: bytes) -> Frame:
    return int.from_bytes(whole[4:6], "little"), whole[3], whole[6:]


def frames_in(sent: list[Any]) -> int:
    """Players' frames in envelopes, among events."""
    return sum(envelope.sid_and_count(each)[1] for each in sent if isinstance(each, bytes))


class FakeSession:
    """A client's session: whether its player may be read, and what it is answered.

    got: the flags and tag of each request, answer and failure that it was sent. tags: those of its requests.
    not_sent: the number of its requests, by type, that an older server was not sent.
    """

    expires_in = 0
    state = SessionState.OPEN

    def __init__(self, uid: int, epoch: int, router: list[PlayerRouter]) -> None:
        self.uid, self.slot, self.epoch, self.address = uid, 0, epoch, "here"
        self.claims: dict[str, Any] = {}
        self.returned = False
        self.extension = None
        self.requests = Requests() if uid != BASE_PLAYER else None
        self.context = router[0].context
        self.got: list[tuple[int, int]] = []
        self.tags: list[int] = []
        self.not_sent: Counter[int] = Counter()
        self.forwarder: Any = None
        self.close_code: CloseCode | None = None
        self.paused = Pause(0)
        self._router = router

    def pause(self, why: Pause) -> None:
        self.paused |= why

    def resume(self, why: Pause) -> None:
        self.paused &= ~why

    def close(self, code: CloseCode = CloseCode.NORMAL, reason: str = "") -> None:
        if self.close_code is None:
            self.close_code = code
            if self.requests is not None:
                self.requests.close()
            self._router[0].closed(self)  # type: ignore[arg-type]

    def send_frame(self, frame: bytes) -> None:
        if self.close_code is not None:
            raise SessionClosed(self.close_code, "")
        self.got.append((frame[3], tag_of(frame[6:10])))
        if frame[3] == FAILED and int.from_bytes(frame[10:12], "little") == RequestCode.NO_HANDLER:
            self.not_sent[int.from_bytes(frame[4:6], "little") // 1000] += 1

    def send_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            self.send_frame(frame)


class Routing(RuleBasedStateMachine):
    """One router, three players, and servers that come, drain and die in any order."""

    @initialize(rules=st.dictionaries(st.sampled_from(TYPES), st.sampled_from(OnDeath)))
    def start(self, rules: dict[int, OnDeath]) -> None:
        self.wheel = FakeWheel()
        self.links = FakeLinks()
        stats = SimpleNamespace(unhandled=0, stray_answers=0, requests_served=Counter())
        context: Any = SimpleNamespace(wheel=self.wheel, stats=stats, max_message=1 << 20, standstill=None)
        table = bytes(id // 1000 if 11_000 <= id < 60_000 else 0 for id in range(65_536))
        links: Any = self.links
        posts: Any = None
        by_type = {type: Rules(on_death=rule) for type, rule in rules.items()}
        self.router = PlayerRouter(context, links, posts, 1 << 16, table, by_type, TYPES)
        self.sessions: dict[int, FakeSession] = {}
        self.all_sessions: list[FakeSession] = []
        self.strays = 0  # answers that came to nothing
        self.epochs = 0
        self.sent: Counter[int] = Counter()  # frames by type
        self.handled: Counter[int] = Counter()  # frames by type, at servers that died since
        for uid in PLAYERS:
            self.log_in(uid)
        for id, type in zip(SERVERS, (LOBBY, LOBBY, ROOM), strict=True):
            self.server_comes(id, type)

    @rule(uid=st.sampled_from(PLAYERS))
    def log_in(self, uid: int) -> None:
        if uid in self.sessions and self.sessions[uid].close_code is None:
            return
        self.epochs += 1
        session: Any = FakeSession(uid, self.epochs, [self.router])
        self.sessions[uid] = session
        self.all_sessions.append(session)
        self.router.opened(session)

    @rule(uid=st.sampled_from(PLAYERS))
    def log_out(self, uid: int) -> None:
        if uid in self.sessions:
            self.sessions[uid].close()

    @rule(types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    def everybody_sends(self, types: list[int]) -> None:
        for session in self.sessions.values():
            if session.forwarder is not None and not session.paused:
                assert session.forwarder.forward([(type * 1000, 0, b"") for type in types])
                self.sent.update(types)

    @rule(uid=st.sampled_from(PLAYERS), types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    def a_player_asks(self, uid: int, types: list[int]) -> None:
        session: Any = self.sessions.get(uid)
        if session is None or session.forwarder is None or session.paused or session.requests is None:
            return
        frames = []
        for type in types:
            session.tags.append(len(session.tags) << 16)
            frames.append((type * 1000, REQUEST, session.tags[-1].to_bytes(4, "little")))
        taken = [frame for frame in frames if session.requests.take(session, frame)]
        if taken:
            assert session.forwarder.forward(taken)
            self.sent.update(id // 1000 for id, _, _ in taken)

    @rule(id=st.sampled_from(SERVERS), at=st.integers(0, 50))
    def a_server_answers(self, id: int, at: int) -> None:
        """A request that it got; perhaps one that it has answered before, or of a player that it has no more.

        What was queued last may still be unsent when it dies (FakeLink.drain), so it has not got that.
        """
        link = self.links.get(id)
        asked = [
            (envelope.sid_of(each), tag)
            for each in (link.sent[:-2] if link is not None else ())
            if isinstance(each, bytes)
            for tag in envelope.tags_in(each)
        ]
        if link is None or not asked:
            return
        sid, tag = asked[at % len(asked)]
        player = self.router.players.get(sid)
        push = split(envelope.push_to_one(sid, [tagged(encode_frame(link.type * 1000, b""), tag, ANSWER)]))
        if player is None:
            self.router.receive_envelopes(link, [push])
            return
        session: Any = player.session
        is_due = tag in session.requests.serving and player.to(link.type).link is link
        got, before = list(session.got), self.router.context.stats.stray_answers
        self.router.receive_envelopes(link, [push])
        self.strays += not is_due
        assert session.got == ([*got, (ANSWER, tag)] if is_due else got)
        assert self.router.context.stats.stray_answers == before + (not is_due)

    @rule(id=st.sampled_from(SERVERS), uid=st.sampled_from(PLAYERS))
    def a_server_asks(self, id: int, uid: int) -> None:
        link, session = self.links.get(id), self.sessions.get(uid)
        if link is None or session is None or session.close_code is not None:
            return
        frame = tagged(encode_frame(link.type * 1000, b""), link.type, REQUEST)
        got, malformed = list(session.got), self.router.stats.malformed
        self.router.receive_envelopes(link, [split(envelope.push_to_one(session.epoch, [frame]))])
        speaks = session.requests is not None
        assert session.got == ([*got, (REQUEST, link.type)] if speaks else got)
        assert self.router.stats.malformed == malformed + (not speaks)

    @rule(uid=st.sampled_from(PLAYERS), type=st.sampled_from(TYPES), back=st.integers(0, 2))
    def a_player_answers(self, uid: int, type: int, back: int) -> None:
        """A request of its server, or of one that it had `back` bindings before."""
        session: Any = self.sessions.get(uid)
        if session is None or session.forwarder is None or session.requests is None:
            return
        route = session.forwarder.to(type)
        tag = type | (route.binding - back & 0xFF) << 8
        is_due = route.link is not None and route.link.speaks_requests and not back
        before = self.router.context.stats.stray_answers
        session.forwarder.forward_answer((type * 1000, ANSWER, tag.to_bytes(4, "little")))
        assert self.router.context.stats.stray_answers == before + (not is_due)
        self.strays += not is_due
        self.sent[type] += is_due

    @rule(uid=st.sampled_from(PLAYERS), type=st.sampled_from(TYPES), server=st.sampled_from((0, *SERVERS)))
    def bind(self, uid: int, type: int, server: int) -> None:
        session = self.sessions.get(uid)
        if session is not None and session.close_code is None:
            self.router.players[session.epoch].to(type).bind_to(server)

    @rule(id=st.sampled_from(SERVERS), type=st.sampled_from(TYPES))
    def server_comes(self, id: int, type: int) -> None:
        if id not in self.links:
            link: Any = FakeLink(id, type)
            link.speaks_requests = id != OLD_SERVER
            self.links[id] = link
            self.router.registry_changed(None, link.info)
            self.router.link_opened(link)

    @rule(id=st.sampled_from(SERVERS))
    def server_dies(self, id: int) -> None:
        link = self.links.pop(id, None)
        if link is not None:
            self.router.link_closed(link)
            self.handled[link.type] += frames_in(link.sent)
            link.relieve()

    @rule(id=st.sampled_from(SERVERS))
    def server_drains(self, id: int) -> None:
        link = self.links.get(id)
        if link is not None and link.info.state is State.UP:
            before = link.info
            link.info = ServerInfo(id=id, type=link.type, name="a", state=State.DRAINING)
            self.router.registry_changed(before, link.info)

    @rule(id=st.sampled_from(SERVERS), uid=st.sampled_from(PLAYERS), on=st.booleans())
    def server_lags(self, id: int, uid: int, on: bool) -> None:
        link, session = self.links.get(id), self.sessions.get(uid)
        if link is not None and session is not None and session.close_code is None:
            self.router.players[session.epoch].set_lagging(link, on)

    @rule(id=st.sampled_from(SERVERS))
    def link_has_room(self, id: int) -> None:
        if id in self.links:
            self.links[id].relieve()

    @rule(uid=st.sampled_from(PLAYERS), type=st.sampled_from(TYPES))
    def time_is_over(self, uid: int, type: int) -> None:
        for item in self.wheel.due:
            route = item.call.__self__
            if route.type == type and route.player.session.uid == uid:
                self.wheel.due.remove(item)
                item.call()
                return

    @invariant()
    def every_table_agrees(self) -> None:
        router = self.router
        routes = [route for player in router for route in player.routes.values()]
        assert set(router.players) == {each.epoch for each in self.sessions.values() if each.close_code is None}
        for route in routes:
            is_bound = route.state is RouteState.BOUND
            assert (route.link is not None) == is_bound
            assert (route.state is RouteState.PINNED) == bool(route.pinned)
            assert route.is_waiting or not route.held
            assert is_bound or not (route.is_crowded or route.is_lagging)
            assert not is_bound or self.links[route.link.id] is route.link  # type: ignore[union-attr]
        for name, found, expected in (
            ("bound", [x for of in router.bound.values() for x in of], [x for x in routes if x.link is not None]),
            ("waiting", [x for of in router.waiting.values() for x in of], [x for x in routes if x.is_waiting]),
            ("crowded", [x for of in router.crowded.values() for x in of], [x for x in routes if x.is_crowded]),
        ):
            assert Counter(map(id, found)) == Counter(map(id, expected)), name
        assert len(self.wheel.due) == sum(route.is_waiting for route in routes), "one timer for each that waits"

    @invariant()
    def a_player_is_read_unless_a_route_stands_in_the_way(self) -> None:
        for player in self.router:
            routes = player.routes.values()
            session: Any = player.session
            assert bool(session.paused & Pause.LINK) == any(route.held or route.is_crowded for route in routes)
            assert bool(session.paused & Pause.HANDLERS) == any(route.is_lagging for route in routes)

    @invariant()
    def each_request_waits_at_its_server_or_is_over_once(self) -> None:
        for player in self.router:
            session: Any = player.session
            if session.requests is None:
                assert not session.got
                continue
            over = [tag for flags, tag in session.got if flags >= ANSWER]
            assert len(over) == len(set(over)), "answered twice"
            assert set(over) | set(session.requests.serving) == set(session.tags), "forgotten"
            assert not set(over) & set(session.requests.serving)
            for tag, (_, type) in session.requests.serving.items():
                route = player.to(type)
                link: Any = route.link
                waiting = link.sent if link is not None else route.held
                there = [each for each in waiting if isinstance(each, bytes) and envelope.sid_of(each) == player.sid]
                assert any(tag in envelope.tags_in(each) for each in there), "no server has it"

    @invariant()
    def each_frame_is_on_a_link_or_held_or_lost(self) -> None:
        missing = 0
        for type in TYPES:
            held = [each for player in self.router for each in player.to(type).held]
            at_links = [each for link in self.links.values() if link.type == type for each in link.sent]
            count = frames_in([*held, *at_links])
            not_sent = sum(session.not_sent[type] for session in self.all_sessions)
            missing += self.sent[type] - (count + self.router.stats.lost[type] + self.handled[type] + not_sent)
        # Answers to a server that died before it got them, where the next server is an older one:
        assert missing == self.router.context.stats.stray_answers - self.strays


TestRouting = Routing.TestCase
TestRouting.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_claims_are_told_as_json_and_no_claims_as_nothing() -> None:
    assert json.loads(claims_text({"role": "admin", "level": 3})) == {"role": "admin", "level": 3}
    assert claims_text({}) == ""


def test_claims_have_room_up_to_the_limit_and_not_beyond() -> None:
    room = MAX_CLAIMS - len('{"a":""}')
    assert len(claims_text({"a": "x" * room})) == MAX_CLAIMS
    with pytest.raises(LocalError, match=f"claims of {MAX_CLAIMS + 1} bytes; a service takes {MAX_CLAIMS}"):
        claims_text({"a": "x" * (room + 1)})


def test_claims_that_json_has_not_are_refused() -> None:
    with pytest.raises(TypeError):
        claims_text({"a": object()})
