"""A read of a link has the same outcome on the straight path of the compiled core and on that of Python."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from gatelink import LINK_LIMITS, Catalog, Full, Handlers, Limits, Refuse, SessionClosed, _native
from gatelink.cluster.links import Link, Links
from gatelink.cluster.player import Player
from gatelink.cluster.player_route import PlayerRouter
from gatelink.cluster.players import Players
from gatelink.cluster.registry import ServerInfo
from gatelink.handling.routes import Routes
from gatelink.net.connection import deliver
from gatelink.session.loop_context import LoopContext
from gatelink.session.session import Session
from gatelink.wire import envelope
from gatelink.wire.control import Features
from gatelink.wire.envelope import SessionOpenedFully
from gatelink.wire.frames import ANSWER, REQUEST, Frame, FrameDecoder, encode_frame
from gatelink.wire.messages import Request
from tests.fakes import Bench, FakeHandlers, FakeOwner, FakeStream, extended_session, settle

pytestmark = pytest.mark.skipif(_native.core is None, reason="the compiled core does not run")

CATALOG = Catalog()
LOBBY = 12
SIDS = (1, 2, 3)
DONE = b"\0" + (12_002).to_bytes(2, "little")
"""The flags and id of a whole `Done`."""
FEATURES = int(Features.RESUME | Features.REQUESTS | Features.LINK_REPORTS)


@CATALOG.message(12_001)
class Do(Struct):
    """The handler does what `how` says."""

    n: int
    how: str


@CATALOG.message(12_002)
class Done(Struct):
    """What a player is sent. by: the uid whose message it comes of."""

    by: int
    n: int


@CATALOG.message(12_003)
class Later(Struct):
    """Its handler is async."""

    n: int


@CATALOG.message(12_004)
class Ask(Struct, Request[Done]):
    n: int
    how: str


@CATALOG.message(12_005)
class Unknown(Struct):
    """It has no handler."""


class Own:
    """A codec of the application: the first byte of a body is `n`, and `how` says what goes wrong."""

    def bind(self, cls: type) -> tuple[Callable[[Any], Any], Callable[[bytes], Any]]:
        def encode(message: Any) -> Any:
            match message.how:
                case "encode: raise":
                    raise ValueError
                case "encode: exit":
                    raise SystemExit
                case "encode: large":
                    return bytes(LINK_LIMITS.max_outbox_bytes)
                case "encode: text":
                    return message.how
            return bytes([message.n % 256]) + message.how.encode()

        def decode(body: bytes) -> Any:
            message = cls(body[0], body[1:].decode())
            match message.how:
                case "decode: raise":
                    raise ValueError
                case "decode: exit":
                    raise SystemExit
            return message

        return encode, decode


@CATALOG.message(12_006, codec=Own())
class Odd(Struct):
    n: int
    how: str


@CATALOG.message(12_007, codec=Own(), answer=Odd)
class AskOdd(Struct):
    n: int
    how: str


HOWS = (
    "",
    "send",
    "raw",
    "keyed",
    "dropping",
    "other",
    "close",
    "kick",
    "abort",
    "raise",
    "coroutine",
    "table",
    "forget",
    "exit",
    "inject",
    "default",
    "copy",
    "hook",
    "odd",
)
ODD = ("", "", "encode: raise", "encode: exit", "encode: large", "encode: text", "decode: raise", "decode: exit")
FRAMES = st.one_of(
    st.tuples(st.just("do"), st.sampled_from(HOWS)),
    st.tuples(st.just("do"), st.just("send")),  # most frames do no harm
    st.tuples(st.just("do"), st.just("other")),
    st.tuples(st.sampled_from(["later", "unknown", "scrambled", "malformed", "framework"]), st.just("")),
    st.tuples(st.just("ask"), st.sampled_from(["", "refuse", "raise", "close", "nothing", "same tag"])),
    st.tuples(st.sampled_from(["ask odd", "odd"]), st.sampled_from(ODD)),
    st.tuples(st.just("answer"), st.just("")),
)
ENVELOPES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("frames"), st.sampled_from((*SIDS, 9)), st.lists(FRAMES, min_size=1, max_size=16)),
    st.tuples(st.just("frames"), st.sampled_from(SIDS), st.lists(st.just(("do", "send")), min_size=1, max_size=16)),
    st.tuples(st.sampled_from(["open", "close", "cut off", "post", "ready"]), st.sampled_from(SIDS), st.just([])),
)
READS = st.lists(st.lists(ENVELOPES, min_size=1, max_size=8), min_size=1, max_size=3)


class End:
    """One server's end of a link, on which `read` arrives. straight: by the path of a real connection."""

    def __init__(self, other: ServerInfo, is_straight: bool, limits: Limits = LINK_LIMITS) -> None:
        self.bench = Bench(catalog=CATALOG)
        context = LoopContext(self.bench.loop, Catalog(), limits, between_servers=True)
        context.wheel = self.bench.context.wheel
        own = ServerInfo(id=20, type=LOBBY, name="here", instance="one")
        registry: Any = SimpleNamespace(servers={other.id: other}, own=own, me=None)
        self.links = Links(registry, SimpleNamespace())  # type: ignore[arg-type]
        self.cluster: Any = SimpleNamespace(links=self.links, registry=registry)
        self.stream = FakeStream()
        self.session = extended_session(
            context,
            FakeOwner(),
            self.links,
            self.stream,
            features=FEATURES,
            uid=other.id,
        )
        self.stream.receiver = self.session
        self.is_straight = is_straight

    @property
    def link(self) -> Link:
        (link,) = self.links
        return link

    def read(self, data: bytes) -> None:
        decoder = FrameDecoder(1 << 20, 1_000, 1 << 30)
        if self.is_straight:
            deliver(decoder, data, len(data), self.session, None)
        else:
            self.session.receive(decoder.feed(data))
        assert decoder.error is None and not decoder.buffered


class Lobby(End):
    """A service with the players of SIDS."""

    def __init__(self, is_straight: bool, limits: Limits = LINK_LIMITS) -> None:
        super().__init__(ServerInfo(id=1, type=1, name="gateway"), is_straight, limits)
        self.journal: dict[int, list[Any]] = defaultdict(list)
        self.posts: list[Frame] = []
        posts: Any = SimpleNamespace(dispatch=lambda session, frames: self.posts.extend(frames))
        self.handlers = self.table("first")
        self.second = self.table("second")
        self.players = self.links.receiver = Players(self.bench.context, self.handlers, posts, LOBBY, self.cluster)
        self.session.open()
        for sid in SIDS:
            self.players.opened(self.link, opened(sid))
        self.known = [self.player(sid) for sid in SIDS]

    def player(self, sid: int) -> Player:
        found = self.players.by_sid(self.link, sid)
        assert found is not None
        return found

    def table(self, name: str) -> Handlers:
        handlers = Handlers(CATALOG)

        @handlers.on(Do)
        def do(player: Player, message: Do) -> Any:
            self.journal[player.sid].append((name, message.n, message.how))
            return self.do(player, message)

        @handlers.on(Later)
        async def later(player: Player, message: Later) -> None:
            await asyncio.sleep(0)
            self.journal[player.sid].append((name, message.n, "later"))
            player.send(Done(player.sid, message.n))

        @handlers.on(AskOdd)
        def ask_odd(player: Player, message: AskOdd) -> Odd:
            self.journal[player.sid].append((name, message.n, message.how))
            return Odd(message.n, message.how)

        @handlers.on(Odd)
        def odd(player: Player, message: Odd) -> None:
            self.journal[player.sid].append((name, message.n, message.how))
            player.send(message)

        @handlers.on(Ask)
        def ask(player: Player, message: Ask) -> Any:
            self.journal[player.sid].append((name, message.n, message.how))
            match message.how:
                case "refuse":
                    raise Refuse(5, "no")
                case "raise":
                    raise ValueError
                case "close":
                    player.close()
                case "nothing":
                    return None
            return Done(player.sid, message.n)

        return handlers

    def do(self, player: Player, message: Do) -> Any:
        done = Done(player.sid, message.n)
        match message.how:
            case "send":
                player.send(done)
            case "raw":
                player.send_raw(12_002, CATALOG.encode(done)[1])
            case "keyed":
                player.send(done, key=5)
            case "dropping":
                player.send(done, full=Full.DROP_NEWEST)
            case "other":
                for other in self.known:
                    try:
                        other.send(done)
                    except SessionClosed:
                        self.journal[player.sid].append(other.sid)
            case "close" | "kick" | "abort":
                getattr(player, message.how)()
            case "raise":
                raise ValueError
            case "coroutine":

                async def rest() -> None:
                    self.journal[player.sid].append("rest")

                return rest()
            case "table":
                player.handlers = self.second
            case "forget":
                if 12_003 in self.handlers.routes:
                    del self.handlers.routes[12_003]
            case "exit":
                raise SystemExit
            case "inject":
                player.inject(Later(message.n))
            case "default":
                self.handlers.default_handler = lambda player, message: self.journal[player.sid].append("default")
            case "copy":
                self.handlers.routes = Routes(dict(self.handlers.routes.items()))
            case "hook":
                self.handlers.around(lambda player, message, call: call(player, message))
            case "odd":
                player.send(Odd(message.n, ODD[message.n % 6]))
        return None

    def outcome(self) -> Any:
        sent: dict[tuple[int, int], list[Any]] = defaultdict(list)
        events: list[Any] = []
        for id, _, body in self.stream.frames:
            if id == envelope.PUSH_FRAME:
                sids, policy, key, frames = envelope.open_push_frames(body, 1 << 20)
                for frame in frames:
                    what = CATALOG.find(12_002).decode(frame[6:]) if frame[3:6] == DONE else None
                    by = what.by if what is not None else 0
                    sent[sids[0], by].append((policy, key, bytes(frame)))
            elif id >= 100:
                events.append((id, body))
        stats = self.bench.stats
        return (
            dict(self.journal),
            dict(sent),
            sorted(events),
            self.posts,
            [(each.taken, each.unhandled, each.state, each.close_code) for each in self.known],
            [player.sid for player in self.players.unreported[self.link]],
            (self.players.malformed, self.players.strays, dict(stats.closed), dict(stats.requests_served)),
            [(route.name, route.count, route.bytes) for route in self.handlers.routes.values()],
            self.session.extension.received if self.session.extension is not None else 0,
        )


def opened(sid: int) -> SessionOpenedFully:
    return SessionOpenedFully(sid, 100 + sid, 0, sid, "here", 0, 0, "", int(Features.REQUESTS), 1, 1, 0)


def made(n: int, kind: str, how: str) -> bytes:
    """A frame of a player."""
    match kind:
        case "do":
            return encode_frame(12_001, CATALOG.encode(Do(n, how))[1])
        case "later":
            return encode_frame(12_003, CATALOG.encode(Later(n))[1])
        case "unknown":
            return encode_frame(12_005, b"")
        case "scrambled":
            return encode_frame(12_001, CATALOG.encode(Do(n, how))[1], 1)
        case "malformed":
            return encode_frame(12_001, b"\xff")
        case "framework":
            return encode_frame(24, b"1234")
        case "ask":
            tag = 1 if how == "same tag" else n
            return encode_frame(12_004, tag.to_bytes(4, "little") + CATALOG.encode(Ask(n, how))[1], REQUEST)
        case "odd":
            return encode_frame(12_006, bytes([n % 256]) + how.encode())
        case "ask odd":
            return encode_frame(12_007, n.to_bytes(4, "little") + bytes([n % 256]) + how.encode(), REQUEST)
    return encode_frame(12_002, (n).to_bytes(4, "little") + CATALOG.encode(Done(0, n))[1], ANSWER)


def bytes_of(read: list[tuple[str, int, list[tuple[str, str]]]], first: int) -> bytes:
    data: list[bytes] = []
    for at, (what, sid, frames) in enumerate(read):
        match what:
            case "frames" | "cut off":
                n = first + at * 100
                inner = b"".join(made(n + i, *frame) for i, frame in enumerate(frames or [("do", "send")]))
                whole = encode_frame(envelope.CLIENT_FRAME, sid.to_bytes(8, "little") + inner)
                data.append(whole if what == "frames" else encode_frame(envelope.CLIENT_FRAME, whole[6:-1]))
            case "open":
                data.append(envelope.event(opened(sid)))
            case "close":
                data.append(envelope.event(envelope.SessionClosed(sid, 4000)))
            case "post":
                data.append(encode_frame(12_001, b"to the server"))
            case "ready":
                data.append(envelope.event(envelope.LinkReady()))
    return b"".join(data)


def run(loop: asyncio.AbstractEventLoop, example: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(example, loop).result(20)


SMALL = replace(LINK_LIMITS, max_frame=900, max_outbox_bytes=4_000, max_outbox_frames=16)


@pytest.mark.parametrize("limits", [LINK_LIMITS, SMALL], ids=["usual", "small"])
async def test_any_envelopes_to_a_service_have_the_same_outcome_on_both_paths(limits: Limits) -> None:
    async def outcome(reads: list[Any], is_straight: bool) -> Any:
        lobby = Lobby(is_straight, limits)
        for number, read in enumerate(reads):
            lobby.read(bytes_of(read, number * 10_000))
            await settle()
        return lobby.outcome()

    loop = asyncio.get_running_loop()
    before = frame_counts()

    @settings(max_examples=150, deadline=None)
    @example(reads=[[*[("frames", 9, [("do", "")])] * 5, ("frames", 2, [("ask", "")])]])
    @given(READS)
    def check(reads: list[Any]) -> None:
        straight, listed = run(loop, outcome(reads, True)), run(loop, outcome(reads, False))
        assert straight == listed

    await asyncio.to_thread(check)
    assert all(now > then for now, then in zip(frame_counts(), before, strict=True)), "there were both"


# -- a gateway --


SIZES = st.lists(st.integers(0, 3), min_size=1, max_size=6)
TAGS = (0, 1, 2, 3, 9)  # the gateway expects an answer to 0 to 3; that to 3 from a server of another type
PUSHES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("push"), st.lists(st.sampled_from((*SIDS, 9)), max_size=4), SIZES),
    st.tuples(st.just("push"), st.sampled_from([[1], [2], [3]]), st.lists(st.just(0), min_size=1, max_size=6)),
    st.tuples(st.just("policy"), st.lists(st.sampled_from((*SIDS, 9)), max_size=4), SIZES),
    st.tuples(st.just("broadcast"), st.sampled_from(["", "two", "nobody's", "\udcff", "x" * 256]), SIZES),
    st.tuples(st.just("answer"), st.sampled_from(SIDS), st.lists(st.sampled_from(TAGS), min_size=1, max_size=3)),
    st.tuples(st.just("answer"), st.just(1), st.lists(st.sampled_from(TAGS[:3]), min_size=1, max_size=2)),
    st.tuples(
        st.sampled_from(
            [
                "key",
                "bad policy",
                "ask",
                "answer to all",
                "framework",
                "cut off",
                "cut off broadcast",
                "kick",
                "hold",
                "handled",
                "bind",
            ]
        ),
        st.sampled_from(SIDS),
        st.just([0]),
    ),
)


class Router(End):
    """A gateway with the players of SIDS, whose outboxes are small. The last one does not speak requests."""

    def __init__(self, is_straight: bool) -> None:
        super().__init__(ServerInfo(id=20, type=LOBBY, name="lobby"), is_straight)
        self.bench = Bench(Limits(max_outbox_frames=12, max_outbox_bytes=1_500), catalog=CATALOG)
        table = bytes(LOBBY if id // 1_000 == LOBBY else 0 for id in range(65_536))
        posts: Any = FakeHandlers()
        self.router = self.links.receiver = PlayerRouter(
            self.bench.context, self.links, posts, max_frame=400, table=table, rules={}, known=(LOBBY,)
        )
        handlers = Handlers(CATALOG)
        handlers.observer = self.router
        self.session.open()
        self.clients = [self.client(handlers, sid) for sid in SIDS]
        for session, _ in self.clients[:2]:
            self.bench.context.groups.join(session, "two")

    def client(self, handlers: Handlers, sid: int) -> tuple[Session, FakeStream]:
        stream = FakeStream()
        features = int(Features.REQUESTS) if sid < 3 else 0
        session = extended_session(
            self.bench.context, self.bench.owner, handlers, stream, features=features, uid=100 + sid, epoch=sid
        )
        stream.receiver = session
        session.open()
        if session.requests is not None:
            session.requests.serving.update({tag: (12_004, LOBBY if tag < 3 else LOBBY + 1) for tag in TAGS[:4]})
            self.router.players[sid].to(LOBBY).bind(envelope.NEW)
        return session, stream

    def outcome(self) -> Any:
        stats = self.router.stats
        return (
            [
                (
                    stream.log,
                    session.close_code,
                    session.outbox.count,
                    session.outbox.dropped,
                    dict(session.requests.serving) if session.requests is not None else {},
                )
                for session, stream in self.clients
            ],
            (stats.pushed, stats.misdirected, stats.malformed, self.bench.stats.stray_answers),
            [(id, body) for id, _, body in self.stream.frames],
        )


def pushed(read: list[tuple[str, Any, list[int]]], first: int) -> bytes:
    data: list[bytes] = []
    for at, (what, to, sizes) in enumerate(read):
        frames = [encode_frame(12_002, bytes([first, at, i, *bytes(size * 190)])) for i, size in enumerate(sizes)]
        match what:
            case "push":
                data.append(envelope.push_frames(to, frames))
            case "policy":
                data.append(envelope.push_frames(to, frames, 1 + first % 2, at % 2))
            case "broadcast":
                data.append(envelope.broadcast_frames(to, frames, first % 3))
            case "answer":
                answers = [
                    encode_frame(12_002, tag.to_bytes(4, "little") + bytes([first, at]), ANSWER) for tag in sizes
                ]
                data.append(envelope.push_to_one(to, [encode_frame(12_002, bytes([first, at])), *answers]))
            case "key":
                data.append(envelope.push_frames([to], frames, 0, 7))
            case "bad policy":
                data.append(envelope.push_frames([to, 1], frames, 3))
            case "ask":
                ask = encode_frame(12_004, bytes([LOBBY, 0, 0, 0]), REQUEST)
                data.append(envelope.push_to_one(to, [ask, *frames]))
            case "answer to all":
                answer = encode_frame(12_002, bytes(4), ANSWER)
                data += [envelope.push_frames([to, 2], [answer]), envelope.broadcast_frames("", [answer])]
            case "framework":
                data.append(envelope.push_to_one(to, [*frames, encode_frame(24, b"1234")]))
            case "cut off":
                data.append(encode_frame(envelope.PUSH_FRAME, envelope.push_frames([to, 1], frames)[6:-1]))
            case "cut off broadcast":
                data.append(
                    encode_frame(envelope.BROADCAST_FRAME, envelope.broadcast_frames("two", frames)[6:][: to * 4])
                )
            case "kick":
                data.append(envelope.event(envelope.Kick(to, 4009, "")))
            case "hold":
                data.append(envelope.event(envelope.Hold(to, 1)))
            case "handled":
                data.append(envelope.handled_counts([(to, 1)]))
            case "bind":
                data.append(envelope.event(envelope.Bind(to, LOBBY, 21)))
    return b"".join(data)


@settings(max_examples=200, deadline=None)
@example(
    reads=[[("answer", 1, [0, 0]), ("answer", 1, [0]), ("answer", 2, [3, 1]), ("answer", 3, [1]), ("ask", 1, [0])]]
)
@example(reads=[[("bind", 1, [0]), ("answer", 1, [1, 2])], [("answer", 2, [9]), ("answer to all", 1, [0])]])
@example(reads=[[("push", [1, 9, 3], [0, 1]), ("push", [], [0]), ("kick", 3, [0]), ("push", [2, 3], [0, 0])]])
@example(reads=[[("broadcast", "two", [0, 1]), ("kick", 1, [0]), ("broadcast", "two", [0]), ("broadcast", "", [0, 0])]])
@given(st.lists(st.lists(PUSHES, min_size=1, max_size=8), min_size=1, max_size=3))
def test_any_envelopes_to_a_gateway_have_the_same_outcome_on_both_paths(reads: list[Any]) -> None:
    async def outcome(is_straight: bool) -> Any:
        gateway = Router(is_straight)
        for number, read in enumerate(reads):
            gateway.read(pushed(read, number))
            await settle()
        return gateway.outcome()

    straight, listed = asyncio.run(outcome(True)), asyncio.run(outcome(False))
    assert straight == listed


@pytest.mark.parametrize("is_straight", [True, False])
async def test_an_answer_of_a_server_that_the_player_has_left_is_stray(is_straight: bool) -> None:
    gateway = Router(is_straight)
    requests = gateway.clients[0][0].requests
    assert requests is not None
    gateway.read(pushed([("bind", 1, [0])], 0))
    requests.serving[5] = 12_004, LOBBY  # the next server is asked
    gateway.read(pushed([("answer", 1, [5])], 1))
    assert 5 in requests.serving
    assert gateway.bench.stats.stray_answers == 1


@pytest.mark.parametrize(
    ("what", "to"),
    [
        ("push", [1]),
        ("push", [1, 9, 3]),
        ("push", []),
        ("policy", [1, 2]),
        ("policy", [3]),
        ("broadcast", ""),
        ("broadcast", "two"),
        ("answer", 1),
    ],
)
async def test_a_gateway_needs_no_python_for_what_is_only_delivered(what: str, to: Any) -> None:
    gateway = Router(is_straight=True)
    straight, listed = frame_counts()
    gateway.read(pushed([(what, to, [1])], 0))
    assert frame_counts() == (straight + 1, listed)


def frame_counts() -> tuple[int, int]:
    counts: tuple[int, int] = _native.core.frame_counts()  # type: ignore[union-attr]
    return counts
