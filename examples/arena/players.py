"""Strict robots: they log in over HTTP, walk and talk in rooms, change rooms, log in twice, and check all messages.

When a server dies they continue as an app would. If a room does not know them, they go back to the lobby. If the
gateway has died, they reconnect with their token.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from examples.arena.ledger import Verdict, Visit
from examples.arena.messages import (
    Chat,
    Chatted,
    Enter,
    Entered,
    Join,
    Joined,
    Move,
    Moved,
    NotHere,
    Part,
    Parted,
    Shout,
    Shouted,
)
from gatelink import CloseCode, ConnectError, GatelinkError, Handlers, Session, SessionClosed, connect
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.messages import LoginReply

ANSWER = 3.0  # s that a server may take to answer before the player asks again
PATIENCE = 20.0  # s in which a player must be back in a room, whatever died
STEP = 0.5  # s between two steps, on average


class World:
    """The shared state of all players of one run: the login, the kills, and the results."""

    def __init__(self, login_url: str, rooms: int, password: str) -> None:
        self.login = LoginClient(login_url)
        self.rooms = rooms
        self.password = password
        self.verdict = Verdict()
        self.ending = False
        self.deaths = 0  # kills so far; after a kill during a visit, missing steps may have died
        self.killed_at = 0.0  # the time of the last kill
        self.logins = 0
        self.second_logins = 0
        self.switches = 0
        self.returns: list[float] = []  # s that players took to be in a room again after they lost it
        self.shouts = 0
        self.shouts_heard = 0


class Player:
    """One robot."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        self.world = world
        self.number = number
        self.random = random.Random(f"{seed}/{number}")
        self.session: Session | None = None
        self.visit: Visit | None = None
        self.visits = 0
        self.deaths = 0  # world.deaths when the visit began
        self.lost_at: float | None = None  # the time when it lost its room
        self.shout_number = 0
        self._reply: LoginReply
        self._answers: dict[type, asyncio.Future[object]] = {}

    # -- life --

    async def run(self) -> None:
        """Play until the world ends. Raises errors after which it can't continue."""
        self._reply = await self._log_in(self.world.login.register)
        await self._connect()
        await self._enter()
        while not self.world.ending:
            await asyncio.sleep(self.random.expovariate(1 / STEP))
            try:
                if self.session is None or self.session.close_code is not None:
                    await self._come_back()
                elif self.visit is None:
                    await self._enter()
                else:
                    await self._act(self.visit)
            except SessionClosed:
                pass  # the next round finds out
        await self._finish()

    async def _act(self, visit: Visit) -> None:
        assert self.session is not None
        what = self.random.random()
        if what < 0.80:
            x, y = self.random.randrange(100), self.random.randrange(100)
            self.session.send(Move(visit.number, visit.next_number(), x, y))
        elif what < 0.92:
            self.session.send(Chat(visit.number, visit.next_number(), "hello" * self.random.randrange(1, 20)))
        elif what < 0.95:
            self.shout_number += 1
            self.world.shouts += 1
            self.session.send(Shout(self.shout_number, "to everybody"))
        elif what < 0.98:
            await self._switch()
        else:
            await self._log_in_twice()

    async def _switch(self) -> None:
        """Change rooms, after all steps in the old one have come back."""
        if await self._leave_room():
            self.world.switches += 1
            await self._enter()

    async def _log_in_twice(self) -> None:
        """Log in again while it is logged in, as from another device."""
        if not await self._leave_room():
            return
        older = self.session
        assert older is not None
        self._reply = await self._log_in(self.world.login.login)
        await self._connect()
        self.world.second_logins += 1
        async with asyncio.timeout(PATIENCE):
            await older.wait_closed()
        if older.close_code is not CloseCode.REPLACED:
            self._suspect(f"the older login ended with {older.close_code!r}")
        await self._enter()

    async def _finish(self) -> None:
        """Leave, after all steps have come back."""
        if self.session is not None and self.session.close_code is None:
            if self.visit is not None:
                await self._leave_room()
            self.session.close()
            await self.session.wait_closed()
        self._end_visit()

    # -- logging in --

    async def _log_in(self, how: Callable[[str, str], Awaitable[LoginReply]]) -> LoginReply:
        """Log in over HTTP, again and again while the service is away."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reply = await how(f"robot-{self.number}", self.world.password)
                self.world.logins += 1
                return reply
            except LoginFailed as error:
                if error.code == "name-taken" or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2 + self.random.random() * (error.retry_after or 0.5))

    async def _connect(self) -> None:
        """Connect to the gateway that the login named, or to another one if it is not reachable."""
        deadline = time.monotonic() + PATIENCE
        addresses = [self._reply.addresses["tcp"]]
        while True:
            address = self.random.choice(addresses)
            try:
                self.session = await connect(
                    address, uid=self._reply.uid, token=self._reply.token, handlers=self._handlers(), timeout=5.0
                )
                return
            except ConnectError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1 + 0.4 * self.random.random())
                try:
                    addresses = [server.addresses["tcp"] for server in await self.world.login.servers()] or addresses
                except LoginFailed:
                    pass

    async def _come_back(self) -> None:
        """Reconnect with its token, after the session has closed."""
        assert self.session is not None
        self._suspect(f"a session ended with {self.session.close_code!r}")
        self._lose_room()
        await self._connect()
        await self._enter()

    # -- rooms --

    async def _enter(self) -> None:
        """Ask the lobby for a room, and join it; again while they do not answer."""
        assert self.session is not None
        room = f"room-{self.random.randrange(self.world.rooms)}"
        deadline = time.monotonic() + PATIENCE
        while self.session.close_code is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"robot {self.number} was in no room for {PATIENCE:g} s")
            # A kill that the loop has not seen yet may have cut this connection already.
            is_fresh = time.monotonic() - self.world.killed_at > 1.0
            self.deaths = self.world.deaths if is_fresh else self.world.deaths - 1
            if await self._ask(Enter(room), Entered) is None:
                self._suspect("the lobby does not answer")
                continue
            self.visits += 1
            self.visit = Visit(self._reply.uid, self.visits, self.world.verdict)
            if await self._ask(Join(room), Joined) is not None:
                if self.lost_at is not None:
                    self.world.returns.append(time.monotonic() - self.lost_at)
                    self.lost_at = None
                return
            self._suspect("the room does not answer")

    async def _leave_room(self) -> bool:
        """Leave the room, after all steps there have come back. Returns False if the room was lost meanwhile."""
        visit = self.visit
        if visit is None:
            return False
        answer = await self._ask(Part(), Parted)
        if answer is None and self.session is not None and self.session.close_code is None:
            self._suspect("the room does not answer")
        if self.visit is not visit:
            return False
        self._end_visit()
        return answer is not None

    def _end_visit(self) -> None:
        visit, self.visit = self.visit, None
        if visit is not None:
            visit.end(died=self.deaths != self.world.deaths)

    def _lose_room(self) -> None:
        if self.lost_at is None:
            self.lost_at = time.monotonic()
        self._end_visit()

    def _suspect(self, what: str) -> None:
        """Something did not come; if nothing was killed lately, that is an error."""
        if time.monotonic() - self.world.killed_at > PATIENCE:
            self.world.verdict.error(what)

    # -- talking --

    async def _ask(self, message: object, answer: type) -> object:
        """The answer of that type; None if it does not come in time, or the session ends."""
        assert self.session is not None
        waiting = self._answers[answer] = asyncio.get_running_loop().create_future()
        try:
            self.session.send(message)
            async with asyncio.timeout(ANSWER):
                return await waiting
        except (TimeoutError, SessionClosed):
            return None
        finally:
            self._answers.pop(answer, None)

    def _handlers(self) -> Handlers:
        handlers = Handlers()

        def answered(session: Session, message: object) -> None:
            waiting = self._answers.get(type(message))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

        for kind in (Entered, Joined, Parted):
            handlers.on(kind)(answered)

        @handlers.on(Moved)
        def moved(session: Session, message: Moved) -> None:
            if self.visit is not None:
                self.visit.hear(message.uid, message.number)

        @handlers.on(Chatted)
        def chatted(session: Session, message: Chatted) -> None:
            if self.visit is not None:
                self.visit.hear(message.uid, message.number)

        @handlers.on(Shouted)
        def shouted(session: Session, message: Shouted) -> None:
            self.world.shouts_heard += 1

        @handlers.on(NotHere)
        def not_here(session: Session, message: NotHere) -> None:
            if self.visit is not None and self.visit.number == message.visit:
                self.visit.refused(message.number)
                self._suspect("a room does not know its player")
                self._lose_room()

        @handlers.on_closed
        def closed(session: Session) -> None:
            for waiting in self._answers.values():
                if session is self.session and not waiting.done():
                    waiting.set_exception(SessionClosed(session.close_code or CloseCode.NORMAL))

        return handlers


async def live(player: Player) -> None:
    """Play. An error after which the player can't continue is an error of the run."""
    try:
        await player.run()
    except (GatelinkError, TimeoutError) as error:
        player.world.verdict.error(f"a robot gave up: {error}")
