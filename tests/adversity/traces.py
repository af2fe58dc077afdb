"""Whether one session of each user is heard, and none of a banned user, whatever happens to a real nats-server.

    python -m tests.adversity.traces [--traces 200] [--seed 1] [--at-once 4]

Each trace has two gateways and two services with a real nats-server. Between each of them and the nats-server is a
proxy, which loses, doubles and delays requests and answers. The steps are those of `tests.traces`: logins, kicks, bans,
losses of the engine, deaths of gateways, broken links. At every step:

- no service hears a session after it has heard a newer one of the same user and slot;
- nobody hears a banned user, from a second after the kick on.

Within 5 s of the engine's return each user and slot has at most one session, the newest. And then all who are not
banned log in once more, and are heard; a kick that was kept may end their first try.
"""

import argparse
import asyncio
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import structlog
import uvloop

from gatelink import CloseCode, ConnectError, GatelinkError, Gateway, Player, Session, SessionClosed, VerifyError
from gatelink.auth.tokens import Identity, StaticTokens
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from tests.e2e.cluster.support import LOBBY, Recorder, Say, Town, log_in
from tests.nats_proxy import NatsProxy
from tests.support import MS
from tests.traces import GATEWAYS, SERVICES, USERS, Key, Step, drawn

HEALED = 5.0  # s after the engine's return within which each user and slot has one session
BAN = 1_000 * MS  # s after which nobody hears a banned user
FAULTS = 0.1  # of requests, and of answers
RETURN = 60_000 * MS  # s that the engine may take to be back for all
LONGEST = 60_000 * MS  # s that a trace may take
PAUSES = (0.0, 0.0, 0.01, 0.05, 0.2, 0.5)  # s after a step


class Bans(StaticTokens):
    """Refuses banned users."""

    def __init__(self) -> None:
        super().__init__()
        self.banned: dict[int, float] = {}  # uid -> when nobody may hear it any more

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        if uid in self.banned:
            raise VerifyError("banned")
        return await super().verify(token, uid, source, address)


class World:
    """One cluster, and what its services heard."""

    def __init__(self, folder: Path, random: Random) -> None:
        self.random = random
        self.wrong: list[str] = []
        self.faults: Counter[str] = Counter()
        self.nats = NatsServer(folder / "nats")
        self.tokens = Bans()
        self.proxies: dict[int, NatsProxy] = {}
        self.gateways: dict[int, Gateway] = {}
        self.lobbies: dict[int, Recorder] = {}
        self.opened: dict[Key, int] = {}  # the newest epoch of each user and slot
        self.heard: dict[tuple[int, Key], int] = {}  # by service: the newest epoch
        self.count = 0  # messages
        self.words: set[tuple[Key, int]] = set()  # users, and the epochs heard since `_trouble` was asked
        self.clients: list[Session] = []
        self._folder = folder
        self._town: Town
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await self.nats.start()
            stack.push_async_callback(self.nats.stop)
            port = int(self.nats.url.rpartition(":")[2])
            engines = {}
            for id in (*GATEWAYS, *SERVICES):
                proxy = self.proxies[id] = await stack.enter_async_context(NatsProxy(port, self.random))
                engines[id] = await stack.enter_async_context(NatsEngine(proxy.within(self.nats.url)))
            servers = await stack.enter_async_context(AsyncExitStack())
            self._town = Town(engines[SERVICES[0]], servers)
            for id in SERVICES:
                lobby = Recorder("lobby", LOBBY, greet=False, member=self._town.member(id, engine=engines[id]))
                self.lobbies[id] = await self._town.start(lobby)
                self._listen(self.lobbies[id])
            for id in GATEWAYS:
                gateway = await self._town.gateway(id, member={"engine": engines[id]}, tokens=self.tokens)
                self.gateways[id] = gateway
                gateway.on_verified(self._note)
            self._backup()
            for proxy in self.proxies.values():
                proxy.rate = FAULTS
            try:
                yield
            finally:
                for proxy in self.proxies.values():
                    proxy.rate = 0.0
                    self.faults += proxy.faults
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                for client in self.clients:
                    client.abort()

    # -- what is heard --

    def _listen(self, lobby: Recorder) -> None:
        id = lobby.id

        @lobby.instead(Say)
        def say(player: Player, message: Say) -> None:
            key = player.uid, player.slot
            if player.epoch < self.heard.get((id, key), 0):
                self.wrong.append(f"service {id} heard {key} of an older login after a newer one")
            if time.monotonic() > self.tokens.banned.get(player.uid, time.monotonic()):
                self.wrong.append(f"service {id} heard {key}, who is banned")
            self.heard[id, key] = player.epoch
            self.words.add((key, player.epoch))
            self.count += 1

    def _note(self, session: Session) -> None:
        key = session.uid, session.slot
        self.opened[key] = max(self.opened.get(key, 0), session.epoch)

    def speak(self) -> None:
        """All clients say something."""
        for client in self.clients:
            with suppress(SessionClosed):
                client.send(Say(1))

    # -- steps --

    async def all_log_in(self) -> None:
        await asyncio.gather(*(self._log_in(self.random.choice(GATEWAYS), key) for key in USERS))

    async def step(self, step: Step) -> None:
        match step:
            case ("login", gateway, key):
                self._begin(self._log_in(gateway, key))
            case ("logout", gateway, key):
                if (session := self._session(gateway, key)) is not None:
                    session.close(CloseCode.NORMAL)
            case ("speak",):
                self.speak()
            case ("wait",):
                await asyncio.sleep(1.0)
            case ("copy",):
                self._backup()
            case ("restart" | "empty" | "restore" as loss, _):
                await self._lose(loss)
            case ("away", gateway):
                self.random.choice((self.proxies[gateway].cut, self.proxies[gateway].silence))()
            case ("back" | "unserved", gateway):
                self.proxies[gateway].mend()
            case ("mend",):
                for proxy in self.proxies.values():
                    proxy.mend()
            case ("die", gateway):
                if len(self.gateways) == len(GATEWAYS):
                    await self._town.kill(self.gateways.pop(gateway))
            case ("cut", (here, there)):
                self._break_link(here, there)
            case ("kick" as what, server, (uid, slot)):
                self._kick(server, uid, slot, what)
            case ("ban" as what, server, uid):
                self._kick(server, uid, None, what)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.wrong.append(f"a login or a kick failed with {error!r}")

    async def _log_in(self, gateway: int, key: Key) -> None:
        if gateway in self.gateways:
            uid, slot = key
            with suppress(ConnectError):
                self.clients.append(await log_in(self.gateways[gateway], uid, slot=slot))

    def _session(self, gateway: int, key: Key) -> Session | None:
        return self.gateways[gateway].sessions.get(*key) if gateway in self.gateways else None

    def _kick(self, server: int, uid: int, slot: int | None, what: str) -> None:
        asked = self.gateways.get(server) or self.lobbies.get(server)
        if asked is None:
            return
        if what == "ban" and uid not in self.tokens.banned:
            self.tokens.banned[uid] = time.monotonic() + BAN

        async def kick() -> None:
            with suppress(GatelinkError):
                await asked.cluster.kick(uid, slot, what)

        self._begin(kick())

    def _break_link(self, here: int, there: int) -> None:
        server = self.gateways.get(here) or self.lobbies.get(here)
        link = server.cluster.links.get(there) if server is not None else None
        if link is not None and link.session._stream is not None:
            link.session._stream.abort()

    def _backup(self) -> None:
        def copy(source: str, target: str) -> None:
            with suppress(FileNotFoundError):  # the running nats-server has just deleted it
                shutil.copy2(source, target)

        shutil.rmtree(self._folder / "backup", ignore_errors=True)
        shutil.copytree(self._folder / "nats" / "store", self._folder / "backup", copy_function=copy)

    async def _lose(self, loss: str) -> None:
        self.nats.kill()
        if loss != "restart":
            shutil.rmtree(self._folder / "nats" / "store")
        if loss == "restore":
            shutil.copytree(self._folder / "backup", self._folder / "nats" / "store")
        await self.nats.start()

    # -- the end --

    async def heal(self) -> None:
        """The engine is back for all; within HEALED all is as it must be."""
        for proxy in self.proxies.values():
            proxy.rate = 0.0
            proxy.mend()
        servers = [*self.gateways.values(), *self.lobbies.values()]
        async with asyncio.timeout(RETURN):
            while not all(server.cluster.engine.is_available for server in servers):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        began = time.monotonic()
        trouble = await self._trouble()
        while trouble and time.monotonic() < began + HEALED * MS * 1_000:
            trouble = await self._trouble()
        self.wrong += [f"{HEALED:g} s after the engine's return: {each}" for each in trouble]
        unheard = [key for key in USERS if key[0] not in self.tokens.banned]
        began = time.monotonic()
        while unheard and time.monotonic() < began + HEALED * MS * 1_000:
            for key in unheard:
                await self._log_in(self.random.choice(list(self.gateways)), key)
            unheard = await self._unheard(unheard)
        self.wrong += [f"{key} logs in at the end, again and again, and is not heard" for key in unheard]

    async def _unheard(self, keys: list[Key]) -> list[Key]:
        """Which of these users' newest logins nobody hears."""
        self.words.clear()
        self.speak()
        await asyncio.sleep(0.1)
        return [key for key in keys if (key, self.opened.get(key)) not in self.words]

    async def _trouble(self) -> list[str]:
        self.words.clear()
        self.speak()
        await asyncio.sleep(0.1)
        trouble = []
        for key in USERS:
            here = {id: session for id in self.gateways if (session := self._session(id, key)) is not None}
            heard = {epoch for whose, epoch in self.words if whose == key}
            if len(here) > 1 or len(heard) > 1:
                trouble.append(f"{key}: {len(here)} sessions, and {len(heard)} of its logins are heard")
            if key[0] in self.tokens.banned and here:
                trouble.append(f"{key} is banned and has a session")
            for session in here.values():
                if session.epoch < self.opened[key]:
                    trouble.append(f"{key} has a session that is not of its newest login")
        return trouble


async def run_trace(seed: int) -> tuple[list[str], Counter[str]]:
    """Run one trace: what was wrong, and the steps and faults by name."""
    random = Random(seed)
    steps = [drawn(random) for _ in range(random.randint(8, 40))]
    with TemporaryDirectory(prefix="gatelink-trace-") as folder:
        world = World(Path(folder), random)
        async with world.running():
            done = Counter(step[0] for step in steps)
            await world.all_log_in()
            for step in steps:
                await world.step(step)
                await asyncio.sleep(random.choice(PAUSES))
                world.speak()
            await world.heal()
        done["messages heard"] = world.count
        done["logins"] = len(world.clients)
        return world.wrong, done + world.faults


async def run(traces: int, seed: int, at_once: int) -> list[str]:
    """Run traces, the seeds of which count up from `seed`; print the figures; what was wrong."""
    places = asyncio.Semaphore(at_once)
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()

    async def one(number: int) -> None:
        async with places:
            try:
                async with asyncio.timeout(LONGEST):
                    problems, seen = await run_trace(number)
            except TimeoutError:
                traceback.print_exc()
                problems, seen = [f"it did not end in {LONGEST:g} s"], Counter()
            counts.update(seen)
            counts["traces"] += 1
            wrong.extend(f"seed {number}: {problem}" for problem in problems)

    await asyncio.gather(*(one(number) for number in range(seed, seed + traces)))
    figures = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    print(f"{time.monotonic() - began:.0f} s: {figures}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.adversity.traces", description="One session a user.")
    parser.add_argument("--traces", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the first trace (1)")
    parser.add_argument("--at-once", type=int, default=4, help="how many run at the same time (4)")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    problems = uvloop.run(run(options.traces, options.seed, options.at_once))
    for problem in problems:
        print(f"FAILED {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
