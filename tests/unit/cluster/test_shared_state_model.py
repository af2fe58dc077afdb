"""A model of what a cluster shares: processes stand still and clocks step; one login and one binding is heard.

Two gateways, two services of one type and players with resume: the real servers, links, sessions and clients, in the
processes of tests/simulation.py. Each process has an engine with faults.
"""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gatelink import Catalog, CloseCode, Handlers, ServerKey, Session, StaticTokens, connect
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.player import Player
from gatelink.cluster.service import Service
from gatelink.errors import GatelinkError
from gatelink.wire.control import Lost
from gatelink.wire.keys import ClusterKey
from tests.faulty_engine import Fault, FaultyEngine, Store
from tests.simulation import Process, Simulation, as_nobody

LOBBY = 12
CATALOG = Catalog()
KEY, SERVER_KEY = ClusterKey.generate(), ServerKey.generate()
GATEWAYS, SERVICES, USERS = (1, 2), (20, 21), (7, 8)
SERVERS = st.sampled_from((*GATEWAYS, *SERVICES))
LEASE = 180.0  # s that an entry of the directory lives: longer than a gateway is without the engine
PERIOD = 0.4  # s between two messages of a client
OVERLAP = 10.5  # s: give_up_seconds of the rules, and one look
HEALING = 45.0  # s; a link may be without a connection for 30 s
SETTLED = 5.0  # s from the end of all faults until each user has one session


@CATALOG.message(12_001)
class Up(msgspec.Struct):
    """Message `number` of a session, which the lobby sends back."""

    login: int
    number: int


class Memory(MemoryEngine):
    """The engine itself, which no process freezes."""

    def _set_timer(self) -> None:
        with as_nobody():
            super()._set_timer()


class ProcessEngine(FaultyEngine):
    """The engine as one process sees it."""

    def __init__(self, store: Store, process: Process) -> None:
        super().__init__(store)
        self.process = process

    async def subscribe(self, subject: str, handler: Callable[[bytes], None]) -> Any:
        def receive(data: bytes) -> None:
            asyncio.get_running_loop().call_soon(handler, data, context=self.process.context)

        return await super().subscribe(subject, receive)

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> Any:
        async def answer(data: bytes) -> bytes:
            return await handler(data)

        return await super().serve(subject, lambda data: self.process.run(answer(data)))


class Client:
    """One login of a user, and what its client sees."""

    def __init__(self, uid: int, login: int) -> None:
        self.uid = uid
        self.login = login
        self.sent = 0
        self.answered: list[int] = []
        self.lost = 0  # messages that it was told of
        self.session: Session | None = None
        self.handlers = Handlers(CATALOG)

        @self.handlers.on(Up)
        def answered(session: Session, message: Up) -> None:
            assert message.number > max(self.answered, default=-1), "an answer came twice, or out of order"
            self.answered.append(message.number)

        @self.handlers.on_lost
        def lost(session: Session, lost: Lost) -> None:
            self.lost += lost.to_server

    @property
    def is_live(self) -> bool:
        return self.session is not None and self.session.close_code is None

    async def log_in(self, address: str) -> None:
        try:
            self.session = await connect(
                address,
                uid=self.uid,
                token=f"{self.uid:032d}",
                handlers=self.handlers,
                catalog=CATALOG,
                server_key=SERVER_KEY.public,
                resume=True,
            )
        except GatelinkError:
            pass  # a fault was in the way

    def speak(self) -> None:
        if self.session is not None and self.session.close_code is None:
            self.session.send(Up(self.login, self.sent))
            self.sent += 1


class Heard:
    """What the handlers of all services were called with, and whether they should have been."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.handled: dict[tuple[int, int], list[int]] = defaultdict(list)  # numbers, by uid and login
        self.lost: Counter[tuple[int, int]] = Counter()  # told to services, by uid and epoch
        self.epochs: dict[tuple[int, int], int] = {}  # by uid and login
        self.overlap = 0.0
        self._clock = clock
        self._here: dict[tuple[Service, int], tuple[int, int]] = {}  # the highest fence, by service and uid
        self._binding: dict[tuple[int, int], int] = {}  # the highest, by uid and epoch
        self._began: dict[int, dict[int, float]] = defaultdict(dict)  # by uid and epoch

    def message(self, service: Service, player: Player, message: Up) -> None:
        uid, (epoch, binding) = player.uid, player.fence
        key = uid, message.login
        assert player.fence >= self._here.get((service, uid), (0, 0)), "a service heard an older fence"
        self._here[service, uid] = player.fence
        assert binding >= self._binding.get((uid, epoch), 0), "an older binding was heard after a newer one"
        self._binding[uid, epoch] = binding
        assert self.epochs.setdefault(key, epoch) == epoch
        numbers = self.handled[key]
        assert message.number > max(numbers, default=-1), "a message was handled twice, or out of order"
        numbers.append(message.number)
        began = self._began[uid]
        began.setdefault(epoch, self._clock())
        newer = [at for other, at in began.items() if other > epoch]
        if newer:
            self.overlap = max(self.overlap, self._clock() - min(newer))
            assert self.overlap <= OVERLAP, "another service heard an older login for too long"


class SharedState(RuleBasedStateMachine):
    """The cluster, and the steps of a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Simulation()
        self.loop.__enter__()
        asyncio.set_event_loop(self.loop)
        self.store = Store()
        self.store.memory = Memory(self.loop.time)
        self.processes: dict[int, Process] = {}  # that have their ids now
        self.engines: dict[int, ProcessEngine] = {}
        self.servers: dict[int, Gateway | Service] = {}
        self.runs: list[tuple[Process, Gateway | Service]] = []
        self.heard = Heard(self.loop.time)
        self.clients: list[Client] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.errors: list[BaseException] = []
        self.loop.set_exception_handler(self._failed)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        await self.store.memory.start()
        for id in (*GATEWAYS, *SERVICES):
            await self._start_one(id)
        await asyncio.sleep(1.0)
        assert all(len(server.cluster.links) >= 2 for server in self.servers.values())

    async def _start_one(self, id: int) -> None:
        process = self.processes[id] = Process(f"server {id}")
        engine = self.engines[id] = ProcessEngine(self.store, process)
        member = Membership(engine=engine, keys=(KEY,), id=id)
        server = self.servers[id] = self._gateway(member) if id in GATEWAYS else self._service(member)
        self.runs.append((process, server))
        await process.run(server.start())
        if isinstance(server, Gateway):
            server.arbiter.directory.ttl = server.arbiter.renewals._ttl = LEASE
            server.arbiter.renewals._clock = self.loop.time

    def _gateway(self, member: Membership) -> Gateway:
        return Gateway("tcp://127.0.0.1:0", member=member, tokens=StaticTokens(), catalog=CATALOG, keys=[SERVER_KEY])

    def _service(self, member: Membership) -> Service:
        service = Service("lobby", type=LOBBY, member=member, catalog=CATALOG)

        @service.on(Up)
        def up(player: Player, message: Up) -> None:
            try:
                self.heard.message(service, player, message)
            except AssertionError as error:
                self.errors.append(error)
            player.send(message)

        @service.on_lost
        def lost(player: Player, lost: Lost) -> None:
            self.heard.lost[player.uid, player.epoch] += lost.to_server

        return service

    # -- steps --

    @rule(uid=st.sampled_from(USERS), gateway=st.sampled_from(GATEWAYS))
    def log_in(self, uid: int, gateway: int) -> None:
        client = Client(uid, len(self.clients))
        self.clients.append(client)
        address = str(self.servers[gateway].endpoints[0])
        self.tasks.append(self.loop.create_task(client.log_in(address)))
        self.run(asyncio.sleep(0.05))

    @rule(seconds=st.sampled_from((0.1, 0.5, 2.0, 6.5, 11.0, 16.0)))
    def play(self, seconds: float) -> None:
        """Every client sends a message every PERIOD."""
        self.run(self._play(seconds))

    async def _play(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / PERIOD))):
            for client in self.clients:
                client.speak()
            await asyncio.sleep(min(PERIOD, seconds))

    @rule(id=SERVERS, seconds=st.sampled_from((0.5, 3.0, 5.5, 6.5, 9.0, 13.0, 25.0, 35.0)))
    def freeze(self, id: int, seconds: float) -> None:
        self.loop.freeze(self.processes[id], seconds)

    @rule(gateway=st.sampled_from(GATEWAYS), service=st.sampled_from(SERVICES))
    def cut(self, gateway: int, service: int) -> None:
        self.loop.cut(self.processes[gateway], self.processes[service])

    @rule(gateway=st.sampled_from(GATEWAYS), service=st.sampled_from(SERVICES))
    def slow(self, gateway: int, service: int) -> None:
        self.loop.slow(self.processes[gateway], self.processes[service], 0.3)

    @rule()
    def mend(self) -> None:
        self.loop.mend()

    @rule(id=SERVERS, seconds=st.sampled_from((-600.0, -1.5, 1.5, 3_600.0)))
    def step_clock(self, id: int, seconds: float) -> None:
        self.processes[id].clock_off += seconds

    @rule(id=SERVERS, seconds=st.sampled_from((1.0, 5.0, 12.0, 40.0)))
    def lose_engine(self, id: int, seconds: float) -> None:
        if not self.engines[id].is_away:
            self.run(self.engines[id].go_away())
            self.loop.call_later(seconds, lambda: self.tasks.append(self.loop.create_task(self._find_engine(id))))

    @rule(id=st.sampled_from(SERVICES))
    def take_id(self, id: int) -> None:
        """Another process starts with the id of a service, whose own process may stand still."""
        self.run(self._start_one(id))

    async def _find_engine(self, id: int) -> None:
        if self.engines[id].is_away:
            await self.processes[id].run(self.engines[id].come_back())

    @rule(id=SERVERS, faults=st.lists(st.sampled_from(Fault), min_size=1, max_size=8))
    def fail_calls(self, id: int, faults: list[Fault]) -> None:
        left = iter(faults)
        self.engines[id].fault = lambda call, key: next(left, Fault.NONE)

    @invariant()
    def holds(self) -> None:
        if self.errors:
            raise self.errors[0]

    def players(self, service: int) -> int:
        """How many players a service has."""
        return len(self.servers[service].sessions)

    # -- the end --

    def teardown(self) -> None:
        try:
            if self.servers:
                self.run(self._heal())
                self.check()
        finally:
            if self.servers:
                self.run(self._stop())
            self.loop.__exit__()
            asyncio.set_event_loop(None)
        self.holds()

    async def _heal(self) -> None:
        self.loop.mend()
        for id, engine in self.engines.items():
            engine.fault = lambda call, key: Fault.NONE
            await self._find_engine(id)
        for each in self.store.engines:  # also of processes whose ids others took
            each.is_away = False
        await asyncio.sleep(HEALING)
        for client in self.clients:
            client.speak()
        await asyncio.sleep(SETTLED)

    def check(self) -> None:
        self.holds()
        for uid in USERS:
            live = [client for client in self.clients if client.uid == uid and client.is_live]
            assert len(live) <= 1, f"user {uid} has {len(live)} sessions"
            for client in live:
                self.check_losses(client)

    def check_losses(self, client: Client) -> None:
        """Every message of a living session was handled, or counted as lost: once, at both ends."""
        key = client.uid, client.login
        handled = self.heard.handled[key]
        assert client.session is not None
        missing = client.sent - len(handled)
        told = self.heard.lost[client.uid, self.heard.epochs[key]]
        assert missing <= client.lost <= told, (
            f"{missing} are missing, the client heard of {client.lost}, services of {told}"
        )
        assert handled[-1] == client.sent - 1, "the last message was not handled"

    async def _stop(self) -> None:
        for client in self.clients:
            if client.session is not None:
                client.session.abort()
        for task in self.tasks:
            task.cancel()
        for process, server in self.runs:
            await process.run(server.stop(0))
        await self.store.memory.close()


SharedState.TestCase.settings = settings(
    max_examples=int(os.environ.get("GATELINK_TRACES", "12")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSharedState = SharedState.TestCase


@contextmanager
def playing() -> Iterator[tuple[SharedState, int, int]]:
    """A user that plays at gateway 1, its service, and the other service. At the end all faults are mended."""
    cluster = SharedState()
    cluster.start()
    cluster.log_in(7, 1)
    cluster.play(2.0)
    (service,) = (id for id in SERVICES if cluster.players(id))
    yield cluster, service, next(id for id in SERVICES if id != service)
    cluster.teardown()


def test_a_service_that_was_given_up_while_it_stood_still_handles_nothing_that_waits_for_it() -> None:
    with playing() as (cluster, service, other):
        cluster.freeze(service, 13.0)
        cluster.play(12.0)
        assert cluster.players(other) == 1
        cluster.play(6.0)
        assert cluster.clients[0].lost > 10


def test_a_service_that_was_cut_off_handles_nothing_that_was_on_its_way() -> None:
    with playing() as (cluster, service, other):
        cluster.cut(1, service)
        cluster.play(14.0)
        assert cluster.players(other) == 1
        cluster.mend()
        cluster.play(2.0)
        assert cluster.clients[0].lost > 10


def test_a_gateway_that_wakes_forwards_nothing_of_an_older_login_though_another_service_has_the_newer() -> None:
    with playing() as (cluster, service, other):
        cluster.play(6.5)  # gateway 2 knows by now that `service` has a player
        cluster.step_clock(1, 3_600.0)
        cluster.freeze(1, 15.0)
        cluster.log_in(7, 2)
        cluster.play(13.0)
        assert cluster.players(other) == 1
        cluster.play(4.0)
        assert cluster.clients[0].session is not None
        assert cluster.clients[0].session.close_code is CloseCode.REPLACED


def test_losses_that_a_second_silent_service_was_told_of_are_told_to_the_third() -> None:
    with playing() as (cluster, service, other):
        cluster.freeze(service, 13.0)
        cluster.play(9.5)
        cluster.freeze(other, 25.0)  # it is well as far as is known, so it gets the player, and does not hear of that
        cluster.play(15.0)
        assert cluster.players(service) == 1
        assert cluster.clients[0].lost > 20
