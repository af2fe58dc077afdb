"""A model of logins, engine losses, cut links and gateway deaths: whatever happens, the newest login is heard, alone.

Two gateways and two services of one type: the real arbiters, session managers, routers and players. Each gateway has an
engine of its own with faults, and links that can be cut. Time is the loop's, which jumps to what is due next.
"""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.cluster.gateway import _SessionObserver
from gatelink.cluster.kicks import GatewayKicks
from gatelink.cluster.links import GATEWAY, Links
from gatelink.cluster.login_arbiter import ClusterLoginArbiter
from gatelink.cluster.player import Player
from gatelink.cluster.player_route import PlayerRouter
from gatelink.cluster.players import Players
from gatelink.cluster.registry import Load, ServerInfo
from gatelink.config import LINK_LIMITS, Limits
from gatelink.errors import CloseCode, GatelinkError
from gatelink.handlers import Handlers
from gatelink.net.user_kicks import UserKicks
from gatelink.session.loop_context import LoopContext
from gatelink.session.manager import SessionManager
from gatelink.session.session import Session
from gatelink.session.states import SessionState
from gatelink.wire.envelope import event, push_to_one
from gatelink.wire.frames import MAX_LENGTH, FrameDecoder
from gatelink.wire.messages import Catalog
from tests.fakes import FakeStream
from tests.faulty_engine import Fault, FaultyEngine, Store, turns
from tests.simulation import STARTED_AT, JumpingLoop
from tests.traces import SERVICES, STEPS, USERS, Key

LOBBY, SAY = 12, 12_001
HEALED = 5.0  # s after the engine's return within which each user and slot has one session


class Nothing:
    """The outbox of a pipe, which keeps nothing."""

    def frames(self) -> list[bytes]:
        return []

    def drain(self) -> list[bytes]:
        return []


class Pipe:
    """One end of a link. A cut pipe keeps what is sent until it is mended."""

    takes_reports = True
    speaks_requests = False
    limits = LINK_LIMITS
    held = None
    silent = 0.0
    was_given_up = False
    is_well = True
    undelivered: tuple[bytes, ...] = ()
    max_envelope = 1 << 20

    def __init__(self, world: "World", here: int, there: int) -> None:
        self.world = world
        self.here = here
        self.id = there
        self.type = GATEWAY if there < 10 else LOBBY
        load = Load(sessions=99 if (here, there) == (2, 20) and not world.same_service else 0)
        self.info = ServerInfo(id=there, type=self.type, name="a", load=load)
        self.session = SimpleNamespace(state=SessionState.OPEN, outbox=Nothing(), uid=there)
        self.before_close: Any = None
        self.queue: list[bytes] = []
        self.is_cut = False

    def push(self, whole: bytes) -> bool:
        self.queue.append(whole)
        asyncio.get_running_loop().call_soon(self.deliver)
        return False

    send_whole = push

    def push_to(self, sid: int, frame: bytes) -> None:
        self.push(push_to_one(sid, [frame]))

    def send_event(self, message: Any) -> None:
        self.push(event(message))

    def pack(self) -> None: ...

    def deliver(self) -> None:
        if self.is_cut or not self.queue or self.here in self.world.dead:
            return
        queue, self.queue = self.queue, []
        frames = FrameDecoder(MAX_LENGTH, 1_000, 1 << 30).feed(b"".join(queue))
        user = self.world.users.get(self.id)
        back = self.world.pipes.get((self.id, self.here))
        if user is not None and back is not None and self.id not in self.world.dead:
            user.receive_envelopes(back, frames)


class Pipes:
    """The links of one server (links.Links, as much as is needed)."""

    def __init__(self, world: "World", here: int) -> None:
        self._world = world
        self._here = here

    def __iter__(self) -> Any:
        return iter([pipe for (here, _), pipe in self._world.pipes.items() if here == self._here])

    def get(self, id: int) -> Pipe | None:
        return self._world.pipes.get((self._here, id))

    def of_type(self, type: int) -> list[Pipe]:
        return [pipe for pipe in self if pipe.type == type]

    def may_live(self, id: int) -> bool:
        return (self._here, id) in self._world.pipes


class House:
    """One gateway, without its sockets."""

    def __init__(self, world: "World", id: int, engine: FaultyEngine) -> None:
        loop = asyncio.get_running_loop()
        self.world = world
        self.id = id
        self.engine = engine
        self.context = LoopContext(loop, world.catalog, Limits())
        self.manager = SessionManager(self.context)
        links = cast(Links, Pipes(world, id))
        table = bytearray(65_536)
        table[SAY] = LOBBY
        posts = Handlers(world.catalog)
        self.router = PlayerRouter(self.context, links, posts, 1 << 20, bytes(table), {}, (LOBBY,))
        self.arbiter = ClusterLoginArbiter(engine, id, self.context, self.manager, links)
        self.arbiter.renewals._clock = loop.time
        self.router.gateways = self.arbiter
        self.running: dict[object, Key] = {}  # logins
        logins: Any = SimpleNamespace(context=self.context, sessions=self.manager, refuse_user=self.refuse_user)
        self.user_kicks = UserKicks(object(), logins, True)
        self.is_kicked: Callable[[int, int], bool] = logins.is_kicked
        self.kicks = GatewayKicks(engine, id, self.user_kicks, self.manager, links)
        self.router.kicks = self.kicks
        self.manager.arbiter = self.arbiter
        self.handlers = Handlers(world.catalog)
        self.handlers.observer = _SessionObserver(self.router, self.arbiter)

    def refuse_user(self, uid: int, slot: int | None = None) -> None:
        self.running = {
            login: key for login, key in self.running.items() if key[0] != uid or slot not in (None, key[1])
        }

    async def log_in(self, key: Key) -> None:
        uid, slot = key
        world = self.world
        if uid in world.banned or self.is_kicked(uid, slot):
            return
        login = object()
        self.running[login] = key
        before = max((epoch for epoch, _ in world.logins.get(key, [])), default=0)
        try:
            epoch = await self.manager.claim(uid, slot)
        except GatelinkError:
            world.refused[key] = 1 << 64  # only its reply may have been lost: then it has ended the older session
            return
        try:
            if self.id in world.dead:
                return
            if self.running.pop(login, None) is None:
                world.refused[key] = max(epoch, world.refused.get(key, 0))
                return
            assert epoch > before, "the newer login has the higher epoch"
            session = Session(self.context, self.manager, self.handlers, FakeStream(), uid=uid, slot=slot, epoch=epoch)
            try:
                self.manager.install(session)
            except GatelinkError:
                return
            world.logins.setdefault(key, []).append((epoch, session))
            session.open()
        finally:
            self.running.pop(login, None)
            self.manager.release(uid, slot, epoch)


class World:
    """Two gateways with a link, and two services.

    same_service: whether the players of both gateways go to one service, which hears of two sessions of a user.
    """

    def __init__(self, same_service: bool = True) -> None:
        self.same_service = same_service
        self.catalog = Catalog()
        self.catalog.message(SAY)(bytes_type())
        self.store = Store(wall_clock(asyncio.get_running_loop()))
        self.dead: set[int] = set()
        self.users: dict[int, Any] = {}
        self.pipes: dict[tuple[int, int], Pipe] = {}
        self.logins: dict[Key, list[tuple[int, Session]]] = {}
        self.heard: dict[tuple[int, Key], int] = {}  # by service and key: the highest epoch
        self.refused: dict[Key, int] = {}  # the highest epoch of a login that a kick refused, or whose gateway died
        self.kicked: dict[Key, int] = {}  # no session of the user up to this epoch may be left at the end
        self.banned: dict[int, set[tuple[int, int]]] = {}  # uid -> gateways and services between which it may be heard
        self.houses: dict[int, House] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        engines = [self.store.engine() for _ in range(2)]
        for id, engine in enumerate(engines, 1):
            await engine.start()
            self.houses[id] = House(self, id, engine)
            self.users[id] = self.houses[id].router
        for id in (20, 21):
            self.users[id] = self._service(id)
        for here in (1, 2, 20, 21):
            for there in (1, 2, 20, 21):
                if here != there and (here < 10 or there < 10):
                    self.pipes[here, there] = Pipe(self, here, there)
        for id, house in self.houses.items():
            await house.arbiter.start()
            await house.kicks.start()
            for pipe in Pipes(self, id):
                house.router.link_opened(pipe)

    def _service(self, id: int) -> Players:
        handlers = Handlers(self.catalog)
        context = LoopContext(asyncio.get_running_loop(), self.catalog, Limits())

        @handlers.on(SAY)
        def say(player: Player, message: bytes) -> None:
            key = id, (player.uid, player.slot)
            may_be_heard = self.banned.get(player.uid)
            assert may_be_heard is None or (player.gateway, id) in may_be_heard, "a banned user is heard"
            assert player.epoch >= self.heard.get(key, 0), "an older login is heard after a newer one"
            self.heard[key] = player.epoch

        cluster: Any = SimpleNamespace(links=Pipes(self, id))
        return Players(context, handlers, Handlers(self.catalog), LOBBY, cluster)

    # -- steps --

    def begin_login(self, gateway: int, key: Key) -> None:
        if gateway not in self.dead:
            task = asyncio.get_running_loop().create_task(self.houses[gateway].log_in(key))
            self.tasks.add(task)

    def everybody_speaks(self) -> None:
        for id, house in self.houses.items():
            if id not in self.dead:
                for session in house.manager:
                    session.receive([(SAY, 0, b"")])

    def log_out(self, gateway: int, key: Key) -> None:
        session = self.houses[gateway].manager.get(*key)
        if session is not None and gateway not in self.dead:
            session.close()

    async def kick(self, server: int, uid: int, slot: int | None) -> None:
        """Services ask as gateways do; here only gateways are asked."""
        if server not in self.houses or server in self.dead:
            return
        for key in USERS:
            if key[0] == uid and slot in (None, key[1]):
                self.kicked[key] = max((epoch for epoch, _ in self.logins.get(key, ())), default=0)
        self.houses[server].user_kicks.kick(uid, slot, "enough")

    async def ban(self, server: int, uid: int) -> None:
        """From now on no login of the user is good. Nobody hears it, except over links that are broken just now."""
        if server not in self.houses or server in self.dead or uid in self.banned:
            return
        cut = {
            (gateway, service)
            for gateway in self.houses
            for service in SERVICES
            if self.is_cut(gateway, service) or (gateway != server and self.is_cut(server, gateway))
        }
        self.banned[uid] = {(gateway, service) for gateway in self.houses for service in SERVICES}
        await self.kick(server, uid, None)
        await turns(20)
        self.banned[uid] = cut

    def is_cut(self, here: int, there: int) -> bool:
        pipe = self.pipes.get((here, there))
        return pipe is None or pipe.is_cut

    def lose(self, contents: Any) -> None:
        """All lose the engine, which has other contents from now on."""
        self.store.become(*contents)

    async def die(self, gateway: int) -> None:
        """A gateway is gone, and the services find that out."""
        if self.dead:
            return  # one has to live
        self.dead.add(gateway)
        for key in self.houses[gateway].running.values():
            self.refused[key] = 1 << 64  # it may have ended the user's older session already
        if len(self.houses[gateway].user_kicks):
            self.kicked.clear()  # a kick that is not in the engine yet is gone with its gateway
        await self.houses[gateway].engine.go_away()
        await self.houses[gateway].kicks.close()
        for pair in [pair for pair in self.pipes if gateway in pair]:
            pipe = self.pipes.pop(pair)
            if pipe.here != gateway:
                self.users[pipe.here].link_closed(pipe)

    def check(self) -> None:
        for key in USERS:
            living = [
                session
                for id, house in self.houses.items()
                if id not in self.dead and (session := house.manager.get(*key)) is not None
            ]
            assert len(living) <= 1, f"{key} has two sessions"
            if living:
                contexts = [house.context for id, house in self.houses.items() if id not in self.dead]
                newest = max(epoch for epoch, session in self.logins[key] if session.context in contexts)
                assert living[0].epoch == newest, f"{key}: an older login is left"
                assert living[0].epoch > self.kicked.get(key, 0), f"{key}: a kicked session is left"
                assert key[0] not in self.banned, f"{key}: a banned user has a session"
        for key, logins in self.logins.items():
            newest, session = max(logins, key=lambda login: login[0])
            if newest > self.refused.get(key, 0):
                assert session.close_code is not CloseCode.REPLACED, f"{key}: an older login replaced the newest one"

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for house in self.houses.values():
            await house.arbiter.close()
            await house.kicks.close()
            await house.user_kicks.close()
            await house.engine.close()
            house.context.wheel.close()


def bytes_type() -> type:
    return type("Say", (bytes,), {})


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(STEPS, st.sampled_from((0, 1, 3, 60, 60, 60))), min_size=5, max_size=40),
    faults=st.lists(st.sampled_from((*[Fault.NONE] * 10, *Fault)), max_size=60),
    same_service=st.booleans(),
)
def test_whatever_is_lost_the_newest_login_is_heard_alone(
    steps: list[tuple[tuple[Any, ...], int]], faults: list[Fault], same_service: bool
) -> None:
    """steps: each with the turns of the loop that come after it. faults: of the engines' calls, in their order."""
    loop = JumpingLoop()
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(time, "time", wall_clock(loop))  # else a slow machine would be one on which time passes
        try:
            loop.run_until_complete(_run(steps, faults, same_service))
        finally:
            loop.close()


def wall_clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    return lambda: STARTED_AT + loop.time()


async def _run(steps: list[tuple[tuple[Any, ...], int]], faults: list[Fault], same_service: bool) -> None:
    world = World(same_service)
    await world.start()
    copy = world.store.copy()
    remaining = iter(faults)
    for engine in world.store.engines:
        engine.fault = lambda call, key: next(remaining, Fault.NONE)
    try:
        for step, count in steps:
            match step:
                case ("login", gateway, key):
                    world.begin_login(gateway, key)
                case ("logout", gateway, key):
                    world.log_out(gateway, key)
                case ("speak",):
                    world.everybody_speaks()
                case ("wait",):
                    await asyncio.sleep(1.5)
                case ("copy",):
                    copy = world.store.copy()
                case ("empty" | "restore" | "restart" as loss, first):
                    for engine in world.store.engines:
                        await engine.go_away()
                    if loss != "restart":
                        world.lose(({}, 1) if loss == "empty" else copy)
                    if first not in world.dead:
                        await world.houses[first].engine.come_back()
                case ("away", gateway):
                    await world.houses[gateway].engine.go_away()
                case ("back", gateway) | ("unserved", gateway):
                    if world.houses[gateway].engine.is_away and gateway not in world.dead:
                        await world.houses[gateway].engine.come_back(serving=step[0] == "back")
                case ("kick", server, (uid, slot)):
                    await world.kick(server, uid, slot)
                case ("ban", server, uid):
                    await world.ban(server, uid)
                case ("die", gateway):
                    await world.die(gateway)
                case ("cut", pair):
                    if pair in world.pipes:
                        world.pipes[pair].is_cut = True
                case ("mend",):
                    mend(world)
            await turns(count)
        mend(world)
        for engine in world.store.engines:
            engine.fault = lambda call, key: Fault.NONE
        for id, house in world.houses.items():
            if id not in world.dead:
                if house.engine.is_away:
                    await house.engine.come_back()
                await house.engine.serve_again()
        await asyncio.sleep(HEALED)
        world.everybody_speaks()
        await turns(20)
        world.check()
    finally:
        await world.close()


def mend(world: World) -> None:
    for pipe in world.pipes.values():
        pipe.is_cut = False
        pipe.deliver()
