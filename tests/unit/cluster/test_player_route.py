"""A player's routes at a gateway: the table of states, and that whatever happens leaves every table agreeing."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatelink.cluster.player_route import MAX_CLAIMS, ROUTE, PlayerRouter, RouteEvent, RouteState, claims_text
from gatelink.cluster.registry import Load, ServerInfo, State
from gatelink.cluster.routes import OnDeath, Rules
from gatelink.errors import CloseCode, LocalError
from gatelink.session.states import SessionState, step
from gatelink.session.stream import Pause
from gatelink.wire import envelope

LOBBY, ROOM = 12, 13
TYPES = (LOBBY, ROOM)
PLAYERS = (1, 2, 3)
SERVERS = (20, 21, 22)


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


class FakeLink:
    """A link that notes what is sent on it. room: envelopes until it is crowded."""

    def __init__(self, id: int, type: int) -> None:
        self.info = ServerInfo(id=id, type=type, name="a", wants_login_events=id % 2 == 0, load=Load())
        self.id, self.type = id, type
        self.session = SimpleNamespace(state=SessionState.OPEN, outbox=self)
        self.sent: list[Any] = []
        self.room = 1
        self._relieved: list[Any] = []

    def push(self, whole: bytes) -> bool:
        self.sent.append(whole)
        self.room -= 1
        return self.room < 0

    def send_event(self, event: Any) -> None:
        self.sent.append(event)

    def when_relieved(self, call: Any) -> None:
        self._relieved.append(call)

    def relieve(self) -> None:
        self.room = 1
        calls, self._relieved = self._relieved, []
        for call in calls:
            call()

    def drain(self) -> list[bytes]:
        unsent = [each for each in self.sent[-2:] if isinstance(each, bytes)]
        for each in unsent:
            self.sent.remove(each)
        return unsent

    def frames(self) -> list[bytes]:
        return []


def frames_in(sent: list[Any]) -> int:
    """Players' frames in envelopes, among events."""
    return sum(envelope.sid_and_count(each)[1] for each in sent if isinstance(each, bytes))


class FakeLinks(dict[int, Any]):
    """links.Links, as much of it as a router needs."""

    def __iter__(self) -> Any:
        return iter(list(self.values()))

    def of_type(self, type: int) -> list[FakeLink]:
        return sorted((link for link in self.values() if link.type == type), key=lambda link: link.id)


class FakeSession:
    """A client's session: whether its player may be read."""

    def __init__(self, uid: int, epoch: int, router: list[PlayerRouter]) -> None:
        self.uid, self.slot, self.epoch, self.address = uid, 0, epoch, "here"
        self.claims: dict[str, Any] = {}
        self.returned = False
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
            self._router[0].closed(self)  # type: ignore[arg-type]


class Routing(RuleBasedStateMachine):
    """One router, three players, and servers that come, drain and die in any order."""

    @initialize(rules=st.dictionaries(st.sampled_from(TYPES), st.sampled_from(OnDeath)))
    def start(self, rules: dict[int, OnDeath]) -> None:
        self.wheel = FakeWheel()
        self.links = FakeLinks()
        context: Any = SimpleNamespace(wheel=self.wheel, stats=SimpleNamespace(unhandled=0), max_message=1 << 20)
        table = bytes(id // 1000 if 11_000 <= id < 60_000 else 0 for id in range(65_536))
        links: Any = self.links
        posts: Any = None
        by_type = {type: Rules(on_death=rule) for type, rule in rules.items()}
        self.router = PlayerRouter(context, links, posts, 1 << 16, table, by_type, TYPES)
        self.sessions: dict[int, FakeSession] = {}
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

    @rule(uid=st.sampled_from(PLAYERS), type=st.sampled_from(TYPES), server=st.sampled_from((0, *SERVERS)))
    def bind(self, uid: int, type: int, server: int) -> None:
        session = self.sessions.get(uid)
        if session is not None and session.close_code is None:
            self.router.players[session.epoch].to(type).bind_to(server)

    @rule(id=st.sampled_from(SERVERS), type=st.sampled_from(TYPES))
    def server_comes(self, id: int, type: int) -> None:
        if id not in self.links:
            link: Any = FakeLink(id, type)
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
            self.router.players[session.epoch].lags(link, on)

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
    def each_frame_is_on_a_link_or_held_or_lost(self) -> None:
        for type in TYPES:
            held = [each for player in self.router for each in player.to(type).held]
            at_links = [each for link in self.links.values() if link.type == type for each in link.sent]
            count = frames_in([*held, *at_links])
            assert count + self.router.stats.lost[type] + self.handled[type] == self.sent[type]


TestRouting = Routing.TestCase
TestRouting.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


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
