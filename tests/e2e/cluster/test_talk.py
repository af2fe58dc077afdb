"""Servers among themselves: posts in order, calls that fail by name, events; over both engines."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from structlog.testing import capture_logs

from gatelink import LINK_LIMITS, CatalogError, ConfigError, LocalError, Session
from gatelink.cluster.cluster import NotLinked
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.registry import Load
from gatelink.cluster.service import Service
from gatelink.errors import Refuse, RequestCode, RequestFailed
from gatelink.session.outbox import OutboxFull
from gatelink.session.states import SessionState
from tests.e2e.cluster.support import CATALOG, LOBBY, ROOM, Ask, Move, Post, Recorder, Say, Town, cluster, player
from tests.e2e.engines import NewEngine
from tests.e2e.support import until
from tests.twins import frame

TIMEOUT = 10.0
MOST = 100  # frames that wait for one server, where a test makes them too many


async def with_talk(town: Town, id: int, prepare: Callable[[Recorder], None], name: str = "lobby") -> Recorder:
    """A service that hears what `prepare` registers."""
    service = Recorder(name, LOBBY if name == "lobby" else ROOM, member=town.member(id))
    prepare(service)
    return await town.start(service)


def answers(service: Recorder) -> None:
    """Calls with Ask are answered, with Say fail, with Move take for ever."""

    @service.on_call(Ask)
    async def ask(request: Ask) -> Ask:
        await asyncio.sleep(0)
        return Ask(service.cluster.me.id * 1_000 + request.n)

    @service.on_call(Say)
    def say(request: Say) -> Say:
        raise ValueError("never told to the caller")

    @service.on_call(Move)
    async def move(request: Move) -> Move:
        await asyncio.Event().wait()
        return request


async def test_posts_arrive_once_and_in_the_order_in_which_they_were_sent_to_a_server(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway, one, two, room = (
            await town.gateway(1),
            await town.lobby(20),
            await town.lobby(21),
            await town.room(30),
        )
        for n in range(300):
            gateway.cluster.post(20, Post(n))
            room.cluster.post(21, Post(n))
            room.cluster.post(20, Post(-n))
        await until(lambda: len(one.posts) == 600 and len(two.posts) == 300)
        assert [n for whose, n in one.posts if whose == 1] == list(range(300))
        assert [n for whose, n in one.posts if whose == 30] == [-n for n in range(300)]
        assert two.posts == [(30, n) for n in range(300)]


async def test_a_post_to_a_name_reaches_one_and_a_broadcast_each_of_the_type() -> None:
    async with cluster() as town:
        one, two, room = await town.lobby(20), await town.lobby(21), await town.room(30)
        room.cluster.post("lobby", Post(1))
        assert room.cluster.broadcast("lobby", Post(2)) == 2
        assert one.cluster.broadcast("lobby", Post(3)) == 1, "not to itself"
        assert room.cluster.broadcast("room", Post(4)) == 0, "no other of its type"
        await until(lambda: len(one.posts) + len(two.posts) == 4)
        assert one.posts == [(30, 1), (30, 2)] and two.posts == [(30, 2), (20, 3)]


async def test_a_broadcast_to_a_type_that_is_misspelt_fails_as_the_list_of_its_servers_does() -> None:
    async with cluster() as town:
        lobby = await town.lobby(20)
        for ask in (lobby.cluster.servers, lambda name: lobby.cluster.broadcast(name, Post(1))):
            with pytest.raises(LocalError, match=r"type 'roomm' was registered so far; known types: .*lobby"):
                ask("roomm")


async def test_a_post_fails_by_name() -> None:
    async with cluster() as town:
        lobby, room = await town.lobby(20), await town.room(30)
        for nobody in (99, 20, "nobody", "lobby"):  # 20: itself, of whose type there is no other
            with pytest.raises(NotLinked, match=str(nobody)):
                lobby.cluster.post(nobody, Post(1))
        link = lobby.cluster.links.get(30)
        assert link is not None
        link.session.close()
        with pytest.raises(NotLinked):
            lobby.cluster.post(30, Post(1))
        assert lobby.cluster.broadcast("room", Post(1)) == 0
        await town.settled()
        lobby.cluster.post(30, Post(2))
        await until(lambda: room.posts == [(20, 2)])


async def test_posts_to_a_server_that_does_not_read_are_refused_when_they_are_too_many() -> None:
    async with cluster() as town:
        lobby = await town.lobby(20, link_limits=msgspec.structs.replace(LINK_LIMITS, max_outbox_frames=MOST))
        room = await town.room(30)
        posted = 0
        with pytest.raises(OutboxFull):
            while posted <= MOST:  # all in one turn of the loop: meanwhile nothing leaves
                lobby.cluster.post(30, Post(posted))
                posted += 1
        await until(lambda: len(room.posts) == posted)
        lobby.cluster.post(30, Post(-1))
        await until(lambda: len(room.posts) > posted)
        assert room.posts == [(20, n) for n in [*range(posted), -1]]


async def test_a_broadcast_reaches_all_others_though_one_has_no_room_and_a_post_to_a_name_one_that_is_reached() -> None:
    async with cluster() as town:
        rooms = [await town.room(30), await town.room(31), await town.room(32)]
        lobby = await town.lobby(20)
        full = lobby.cluster.links.get(30)
        assert full is not None and full.session._stream is not None
        full.session._stream.writable = False
        for size in (full._largest - 4, 0):
            with pytest.raises(OutboxFull):
                while True:
                    full.push(frame(bytes(size)))
        with pytest.raises(OutboxFull):
            lobby.cluster.broadcast("room", Post(1))
        await until(lambda: [room.posts for room in rooms] == [[], [(20, 1)], [(20, 1)]])
        with broken(lobby, 30, 31):
            lobby.cluster.post("room", Post(2))
            await until(lambda: rooms[2].posts == [(20, 1), (20, 2)])


@contextmanager
def broken(server: Recorder, *ids: int) -> Iterator[None]:
    """Links that are broken, as far as a server knows."""
    sessions = [link.session for link in server.cluster.links if link.id in ids]
    for session in sessions:
        session.state = SessionState.DETACHED
    try:
        yield
    finally:
        for session in sessions:
            session.state = SessionState.OPEN


async def test_a_handler_of_posts_that_raises_takes_the_next_one() -> None:
    async with cluster() as town:
        lobby, room = await town.lobby(20), await town.room(30)

        @room.cluster_handlers.posts.on(Ask)
        def ask(link: Session, message: Ask) -> None:
            raise ValueError("a fault of this handler")

        link = lobby.cluster.links.get(30)
        lobby.cluster.post(30, Ask(1))
        lobby.cluster.post(30, Post(2))
        await until(lambda: room.posts == [(20, 2)])
        assert lobby.cluster.links.get(30) is link


async def test_what_a_handler_of_posts_keeps_in_data_is_its_own() -> None:
    """Posts, players' messages and a resumed or lost link go on as before, on both ends."""
    async with cluster() as town:
        gateway, lobby, room = await town.gateway(1), await town.lobby(20), await town.room(30)
        servers: tuple[Gateway | Recorder, ...] = (gateway, lobby, room)
        kept: dict[int, set[object]] = {server.id: set() for server in servers}
        for service in (lobby, room):
            del service.cluster_handlers.posts.routes[CATALOG.find(Post).id]
        for server in servers:

            def keep(link: Session, message: Post, here: int = server.id) -> None:
                kept[here].add(link.data)
                link.data = f"{here} keeps {message.n} of {link.uid}"

            server.on_post(Post)(keep)
        async with player(gateway, 7) as client:
            for round in range(2):
                for one in servers:
                    for other in servers:
                        if one is not other:
                            one.cluster.post(other.id, Post(round))
                await until(lambda: all(len(kept[id]) == 1 + 2 * round for id in kept))  # noqa: B023 - awaited here
                await client.ask(round)
                client.move(round)
                await until(lambda: room.numbers(7) == list(range(round + 1)))  # noqa: B023 - awaited here
            assert kept[20] == {None, "20 keeps 0 of 1", "20 keeps 0 of 30"}
            link = gateway.cluster.links.get(20)
            assert link is not None
            link.session.close()
            await until(lambda: gateway.cluster.links.get(20) not in (None, link), "there is a new link")
            await town.settled()
            await client.ask(9)
        assert all(len(server.cluster.links._by_session) == len(server.cluster.links) == 2 for server in servers)


async def test_a_call_is_answered_by_the_server_or_one_of_the_type(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway = await town.gateway(1)
        await with_talk(town, 20, answers)
        await with_talk(town, 21, answers)
        assert await gateway.cluster.call(20, Ask(1), TIMEOUT) == Ask(20_001)
        assert await gateway.cluster.call(21, Ask(2), TIMEOUT) == Ask(21_002)
        found = await asyncio.gather(*(gateway.cluster.call("lobby", Ask(n), TIMEOUT) for n in range(50)))
        assert [answer.n % 1_000 for answer in found] == list(range(50))
        assert {answer.n // 1_000 for answer in found} <= {20, 21}


async def test_a_call_fails_by_name(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        gateway = await town.gateway(1)
        lobby = await with_talk(town, 20, answers)
        for nobody in (99, "nobody"):
            with pytest.raises(RequestFailed) as raised:
                await gateway.cluster.call(nobody, Ask(1), TIMEOUT)
            assert raised.value.code is RequestCode.SERVER_LOST
        with pytest.raises(RequestFailed) as raised:
            await gateway.cluster.call("lobby", Say(1), TIMEOUT)
        assert raised.value.code is RequestCode.FAILED and "never told" not in str(raised.value)
        with pytest.raises(RequestFailed) as raised:
            await gateway.cluster.call("lobby", Post(1), TIMEOUT)  # nobody answers that
        assert raised.value.code is RequestCode.NO_HANDLER
        for _ in range(2):
            with pytest.raises(RequestFailed) as raised:
                await gateway.cluster.call("lobby", Move(1), 0.2)
            assert raised.value.code is RequestCode.TIMEOUT
        assert gateway.cluster.engine.is_available
        assert await lobby.cluster.call(20, Ask(1), TIMEOUT) == Ask(20_001), "itself, after all that"
        await lobby.stop()
        with pytest.raises(RequestFailed) as raised:
            await gateway.cluster.call("lobby", Ask(1), TIMEOUT)
        assert raised.value.code is RequestCode.SERVER_LOST


async def test_a_handler_refuses_a_call_with_a_code_and_a_reason_that_the_caller_sees(new_engine: NewEngine) -> None:
    def refuses(service: Recorder) -> None:
        @service.on_call(Ask)
        async def ask(request: Ask) -> Ask:
            await asyncio.sleep(0)
            raise Refuse(request.n, "der Raum ist voll: 4 von 4 — später")

        @service.on_call(Say)
        def say(request: Say) -> Say:
            raise Refuse(0)

        @service.on_call(Move)
        async def move(request: Move) -> Move:
            async with asyncio.timeout(0):  # its own time, not the caller's
                await asyncio.Event().wait()
            return request

    async with cluster(new_engine()) as town:
        gateway = await town.gateway(1)
        await with_talk(town, 20, refuses)
        with capture_logs() as logs:
            for code in (0, 7, 0xFFFFFFFF):
                with pytest.raises(RequestFailed) as raised:
                    await gateway.cluster.call("lobby", Ask(code), TIMEOUT)
                assert (raised.value.code, raised.value.detail) == (RequestCode.REFUSED, code)
                assert (raised.value.detail, raised.value.reason) == (code, "der Raum ist voll: 4 von 4 — später")
            with pytest.raises(RequestFailed) as raised:
                await gateway.cluster.call(20, Say(1), TIMEOUT)
            assert (raised.value.detail, raised.value.reason) == (0, "")
            with pytest.raises(RequestFailed, match="no handler") as raised:
                await gateway.cluster.call(20, Post(1), TIMEOUT)  # which nothing there answers
        assert not [line for line in logs if line["log_level"] == "error"], "a refusal is no fault"
        with pytest.raises(RequestFailed, match="in its log"):
            await gateway.cluster.call(20, Move(1), TIMEOUT)


@pytest.mark.parametrize(("code", "reason"), [(-1, ""), (1 << 32, "")])
def test_a_refusal_that_no_caller_could_be_told_is_not_made(code: int, reason: str) -> None:
    with pytest.raises(LocalError, match="the number of a refusal"):
        Refuse(code, reason)


async def test_servers_of_a_type_that_is_misspelt_raise_and_of_one_that_is_down_are_none() -> None:
    async with cluster() as town:
        lobby, room = await town.lobby(20), await town.room(30)
        assert [info.id for info in lobby.cluster.servers("room")] == [30]
        assert [info.id for info in lobby.cluster.servers("lobby")] == [20]
        with pytest.raises(LocalError, match="'rooom' was registered so far; known types: lobby, room"):
            lobby.cluster.servers("rooom")
        await room.stop()
        await until(lambda: 30 not in lobby.cluster.registry.servers)
        assert lobby.cluster.servers("room") == []
        town.servers.remove(room)
        arena = Recorder("arena", ROOM, member=town.member(40, types=["gateway", "arena", "bank"]))
        await town.start(arena)
        assert arena.cluster.servers("bank") == [], "it is configured"
        with pytest.raises(LocalError):
            arena.cluster.servers("room")


def test_loads_are_in_order_of_their_sessions() -> None:
    loads = [Load(3, 0.0, 0.0), Load(1, 9.0, 9.0), Load(2, 1.0, 0.5), Load(2, 1.0, 0.1), Load(2, 0.5, 0.9)]
    assert sorted(loads) == [loads[1], loads[4], loads[3], loads[2], loads[0]]
    assert min(loads).sessions == 1 and Load(1) < Load(2) and Load() == Load(0)


async def test_while_the_engine_is_away_calls_and_events_fail_by_name_and_posts_go_on() -> None:
    async with cluster() as town:
        gateway, lobby = await town.gateway(1), await with_talk(town, 20, answers)
        engine = town.engine
        assert isinstance(engine, MemoryEngine)
        users, engine._users = engine._users, 0
        with pytest.raises(EngineUnavailable):
            await gateway.cluster.call("lobby", Ask(1), 0.2)
        with pytest.raises(EngineUnavailable):
            await gateway.cluster.publish("news", Post(1))
        gateway.cluster.post("lobby", Post(2))
        await until(lambda: lobby.posts == [(1, 2)])
        engine._users = users
        assert await gateway.cluster.call("lobby", Ask(1), TIMEOUT) == Ask(20_001)


async def test_an_event_reaches_all_subscribers_in_order_whatever_a_handler_raises(new_engine: NewEngine) -> None:
    async with cluster(new_engine()) as town:
        heard: dict[int, list[int]] = {20: [], 21: []}

        def listens(service: Recorder) -> None:
            @service.on_event("news")
            def news(message: Post) -> None:
                heard[service.cluster.me.id].append(message.n)
                if message.n == 3:
                    raise ValueError("a fault of this handler")

        await with_talk(town, 20, listens)
        await with_talk(town, 21, listens)
        room = await town.room(30)
        for n in range(20):
            await room.cluster.publish("news", Post(n))
            await room.cluster.publish("other", Post(100))
        await until(lambda: heard[20] == heard[21] == list(range(20)))


def test_what_is_registered_twice_or_is_no_message_is_refused() -> None:
    class Stranger(msgspec.Struct):
        n: int

    service = Service("lobby", type=LOBBY, catalog=CATALOG)
    service.on_call(Ask)(lambda request: request)
    service.on_event("news")(lambda message: None)
    with pytest.raises(CatalogError, match="Ask"):
        service.on_call(Ask)(lambda request: request)
    with pytest.raises(CatalogError, match="news"):
        service.on_event("news")(lambda message: None)
    with pytest.raises(CatalogError, match="Stranger"):
        service.on_call(Stranger)

    async def late(message: Post) -> None: ...

    with pytest.raises(CatalogError, match="async"):
        service.on_event("other")(late)  # type: ignore[type-var]
    with pytest.raises(CatalogError, match=r"calls with Post is called with \(request\)"):
        service.on_call(Post)(lambda link, request: request)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("type", [0, 1, 256])
def test_a_service_of_the_gateways_type_or_of_none_is_refused(type: int) -> None:
    with pytest.raises(ConfigError, match=f"service 'lobby' has type {type}; a service has 2 to 255"):
        Service("lobby", type=type, catalog=CATALOG)
