"""Players, handlers and links that break, in any order: what arrives is what was sent, once, in the order of sending.

The servers, sockets and breaks are real; a random walk says what happens, a model what each player and server hears.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from itertools import takewhile
from random import Random
from time import monotonic

import msgspec
import pytest

from gatelink import Full, Limits, Peer, Session
from gatelink.cluster.player import Player
from gatelink.config import LINK_LIMITS, WireOptions
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy
from tests.e2e.cluster.support import CATALOG, LOBBY, ROOM, Ask, Client, Move, Recorder, Say, between, cluster, log_in
from tests.e2e.support import leave, until

STEPS = 150
UIDS = range(1, 7)
GROUPS = ("red", "blue")
SIZES = (0, 0, 0, 10, 300, 5_000, 60_000)  # of texts; of the last, one turn's do not go into one envelope
MOST_HELD = LINK_LIMITS.heartbeat_interval  # s; well below the time after which a link is closed
ROOMY = Limits(max_outbox_frames=100_000, max_outbox_bytes=64 << 20)


@CATALOG.message(14_001)
class Local(msgspec.Struct):
    """Handled by the gateway itself."""

    n: int


class Life(Client):
    """One login: what it said and must hear."""

    def __init__(self, uid: int) -> None:
        super().__init__()
        self.uid = uid
        self.epoch = 0
        self.said: dict[type, list[int]] = {Say: [], Ask: [], Move: [], Local: []}
        self.due: list[int] = []  # what it must hear
        self.groups: set[str] = set()
        self.hears_all = True  # else, as it broke off or was replaced, only the beginning
        self.is_heard = True  # else only the beginning, too


class Walk:
    """Two gateways, a lobby and two rooms behind links that break, and players who come and go."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.lives: list[Life] = []
        self.numbers = iter(range(1, 1_000_000))
        self.took: dict[int, list[int]] = {}  # by server: what players said that it heard
        self.came: set[int] = set()  # to any of them
        self.proxies: list[ChaosProxy] = []
        self.held: dict[ChaosProxy, float] = {}  # since when

    async def start(self, stack: AsyncExitStack) -> None:
        town = await stack.enter_async_context(cluster())
        self.gateways = [await town.gateway(id, limits=ROOMY) for id in (1, 2)]
        self.services = []
        for name, type, id in (("lobby", LOBBY, 20), ("room", ROOM, 30), ("room", ROOM, 31)):
            service = Recorder(name, type, member=town.member(id), limits=ROOMY)
            self.proxies.append(await stack.enter_async_context(between(service)))
            self.services.append(await town.start(service))
        self.lobby = self.services[0]
        for gateway in self.gateways:
            gateway.on(Local)(self.taker(gateway.id))
        for service in self.services:
            service.instead(Say)(take := self.taker(service.id))
            service.instead(Move)(take)
        self.lobby.instead(Ask)(self.answer)
        self.links = {link for gateway in self.gateways for link in gateway.cluster.links}

    def taker(self, server: int) -> Callable[[Session, Say | Move | Local], None]:
        self.took[server] = []
        return lambda _, message: self.take(server, message.n)

    def take(self, server: int, n: int) -> None:
        self.took[server].append(n)
        self.came.add(n)

    def answer(self, session: Session, message: Ask) -> None:
        self.take(self.lobby.id, message.n)
        session.send(message)
        self.life_of(session).due.append(message.n)

    def life_of(self, session: Peer) -> Life:
        return next(life for life in self.lives if life.epoch == session.epoch)

    async def go(self) -> None:
        may = [self.says, self.says, self.sends, self.sends, self.broadcasts, self.joins, self.binds, self.kicks]
        may += [self.leaves, self.cuts, self.holds]
        for _ in range(STEPS):
            for _ in range(self.random.randint(1, 5)):  # in one turn of the loop
                self.random.choice(may)()
            if self.random.random() < 0.15 or not self.lives:
                await self.comes()
            for _ in range(self.random.choice((0, 1, 2, 20))):
                await asyncio.sleep(0)
            self.release()
        for proxy in self.proxies:
            proxy.resume()

    def all_came(self) -> bool:
        """Whether all that must be heard has been. The last may come before others, which another room gets."""
        return all(len(life.heard) >= len(life.due) for life in self.lives if life.hears_all) and all(
            self.came.issuperset(said) for life in self.lives if life.is_heard for said in life.said.values()
        )

    def check(self) -> None:
        """Raises AssertionError unless all that is due has come, and nothing else, nothing twice, and in order."""
        took: dict[int, dict[int, int]] = {}  # by server: when it heard each
        for server, numbers in self.took.items():
            assert len(numbers) == len(set(numbers)), f"server {server} heard something twice"
            took[server] = {n: at for at, n in enumerate(numbers)}
        for life in self.lives:
            heard = life.heard[len(self.carried(life)) :]
            assert heard == (life.due if life.hears_all else life.due[: len(heard)]), life.session
            for kind, said in life.said.items():
                came = [[n for n in said if n in each] for each in took.values()]
                for each, where in zip(came, took.values(), strict=True):
                    assert each == sorted(each, key=where.__getitem__), f"{life.session}, {kind.__name__} in order"
                every = sorted(n for each in came for n in each)
                assert len(every) == len(set(every)), f"{life.session}, a {kind.__name__} at one server alone"
                if life.is_heard or kind is not Move:  # of a bound player each room may have missed the end of its own
                    due = said if life.is_heard else said[: len(every)]
                    assert every == due, f"{life.session}, each {kind.__name__}"

    def carried(self, life: Life) -> list[int]:
        """Messages that waited for an older session of the user that broke off; the client gets them first, once."""
        older = [each for each in self.lives[: self.lives.index(life)] if each.uid == life.uid]
        heard = {n for each in older for n in each.heard}
        left = [n for each in older for n in each.due if n not in heard]
        carried = list(takewhile(set(left).__contains__, life.heard))
        among = set(carried)
        assert carried == [n for n in left if n in among], f"{life.session}, in their order"
        return carried

    # -- what may happen --

    def client(self) -> Life | None:
        here = [life for life in self.lives if life.session.state is SessionState.OPEN]
        return self.random.choice(here) if here else None

    def player(self) -> tuple[Life, Player] | None:
        players = list(self.lobby.players)
        player = self.random.choice(players) if players else None
        return (self.life_of(player), player) if player is not None else None

    def say(self) -> Say:
        return Say(next(self.numbers), "x" * self.random.choice(SIZES))

    def says(self) -> None:
        if not (life := self.client()):
            return
        for _ in range(self.random.randint(1, 40)):
            kind = self.random.choice((Say, Say, Ask, Move, Local))
            message = self.say() if kind is Say else kind(next(self.numbers))
            life.session.send(message)
            life.said[kind].append(message.n)

    def sends(self) -> None:
        for _ in range(self.random.randint(1, 30)):
            if found := self.player():
                life, player = found
                message = self.say()
                player.send(message, full=self.random.choice((Full.CLOSE, Full.CLOSE, Full.DROP_NEWEST)))
                life.due.append(message.n)

    def broadcasts(self) -> None:
        message = self.say()
        name = self.random.choice((None, *GROUPS))
        if name is not None:
            self.lobby.broadcast_to(name, message)
            to = [life for life in map(self.life_of, self.lobby.players) if name in life.groups]
        else:
            some = [player for player in self.lobby.players if self.random.random() < 0.5]
            self.lobby.players.broadcast(message, some)
            to = [self.life_of(player) for player in some]
        for life in to:
            life.due.append(message.n)

    def joins(self) -> None:
        if found := self.player():
            life, player = found
            name = self.random.choice(GROUPS)
            (player.leave if name in life.groups else player.join)(name)
            life.groups ^= {name}

    def binds(self) -> None:
        if found := self.player():
            found[1].bind(ROOM, self.random.choice((30, 31)))

    def kicks(self) -> None:
        if self.random.random() < 0.2 and (found := self.player()):
            life, player = found
            player.kick("enough")
            life.is_heard = False

    def leaves(self) -> None:
        if self.random.random() < 0.2 and (life := self.client()):
            life.hears_all = life.is_heard = False
            (life.session.abort if self.random.random() < 0.5 else life.session.close)()

    def cuts(self) -> None:
        self.random.choice(self.proxies).cut_all()

    def holds(self) -> None:
        proxy = self.random.choice(self.proxies)
        if self.held.pop(proxy, None) is None:
            self.held[proxy] = monotonic()
            proxy.pause()
        else:
            proxy.resume()

    def release(self) -> None:
        """Let go what was held for MOST_HELD, which the steps of a busy machine may exceed."""
        for proxy, since in list(self.held.items()):
            if monotonic() - since > MOST_HELD:
                del self.held[proxy]
                proxy.resume()

    async def comes(self) -> None:
        life = Life(self.random.choice(UIDS))
        for older in self.lives:
            if older.uid == life.uid:
                older.hears_all = older.is_heard = False
        gateway = self.random.choice(self.gateways)
        wire = self.random.choice((None, WireOptions(scramble=True, compress_over=200)))
        life.session = await log_in(gateway, life.uid, handlers=life.handlers, limits=ROOMY, wire=wire)
        session = gateway.sessions.get(life.uid)
        assert session is not None
        life.epoch = session.epoch
        self.lives.append(life)


@pytest.mark.parametrize("seed", range(3))
async def test_in_any_order_each_hears_what_was_said_to_it_once_and_in_order(seed: int) -> None:
    walk = Walk(seed)
    async with AsyncExitStack() as stack:
        await walk.start(stack)
        await walk.go()
        open = [life for life in walk.lives if life.session.state is SessionState.OPEN]
        with suppress(AssertionError):  # `check` says more
            await until(walk.all_came)
        walk.check()
        assert walk.links == {link for gateway in walk.gateways for link in gateway.cluster.links}, "none was lost"
        for life in open:
            await leave(life.session)
        await until(lambda: not any(len(service.players) for service in walk.services))
        for gateway in walk.gateways:
            router = gateway.router
            assert not router.stats.malformed and not router.players and not router.crowded and not router.waiting
            assert not any(router.bound.values()) and not len(gateway.context.groups)
        assert not len(walk.lobby.context.groups) and not sum(service.players.malformed for service in walk.services)
