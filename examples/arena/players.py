"""Strict robots: they walk and talk in rooms, log in twice, and check all messages.

When a server dies they continue as an app would. If a room does not know them, they go
back to the lobby. If the gateway has died, `connect_cluster` begins a new session at the
other one, and they go back to the lobby, too.
"""

import asyncio
import time
from typing import TypeVar

from examples.arena.ledger import Verdict, Visit
from examples.arena.messages import (
    Chat,
    Chatted,
    Enter,
    Join,
    Move,
    Moved,
    NotHere,
    Part,
    Shout,
    Shouted,
)
from gatelink import (
    Backoff,
    CloseCode,
    GatelinkError,
    Request,
    RequestCode,
    RequestFailed,
    Session,
    SessionClosed,
)
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.robots import Robot, Tally
from gatelink.robots.robot import describe

A = TypeVar("A")

ANSWER = 3.0  # s that a server may take to answer before the player asks again
PATIENCE = 20.0  # s in which a player must be back in a room, whatever died
AGAIN = Backoff(first=0.2, most=1.0, attempts=100)
STEP = 0.5  # s between two steps, on average
SIZE = 100  # x and y are below that
WORDS = (
    "hello",
    "over here!",
    "follow me",
    "good game",
    "wait",
    "where are you all?",
    "hello " * 20,
)
STRIDE = 12  # of a step in each direction, at most


class World:
    """The shared state of all players of one run: login, kills, and results."""

    def __init__(self, login_url: str, rooms: int, password: str) -> None:
        self.login = LoginClient(login_url)
        self.rooms = rooms
        self.password = password
        self.verdict = Verdict()
        self.tally = Tally()  # of the robots' handlers: their errors
        self.ending = False
        # kills so far; after a kill during a visit, missing steps may have died
        self.deaths = 0
        self.killed_at = 0.0  # the time of the last kill
        self.logins = 0
        self.second_logins = 0
        self.switches = 0
        # s that players took to be in a room again after they lost it
        self.returns: list[float] = []
        self.shouts = 0
        self.shouts_heard = 0


class Player(Robot):
    """One robot."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        super().__init__(
            number,
            {"login": world.login, "reconnect": AGAIN, "timeout": PATIENCE},
            world.tally,
            seed,
        )
        self.world = world
        self.name = f"robot-{number}"
        self.x, self.y = self.random.randrange(SIZE), self.random.randrange(SIZE)
        self.visit: Visit | None = None
        self.visits = 0
        self.deaths = 0  # world.deaths when the visit began
        # the time when it lost its room, or its connection
        self.lost_at: float | None = None
        self.shout_number = 0

    # -- life --

    async def run(self) -> None:
        """Play until the world ends. Raises errors after which it can't continue."""
        await self._register()
        await self._log_in()
        await self._enter()
        while not self.world.ending:
            await asyncio.sleep(self.random.expovariate(1 / STEP))
            try:
                if self.visit is None:
                    await self._enter()
                else:
                    await self._act(self.visit)
            except SessionClosed as closed:
                self._suspect(f"a client ended with {closed.code!r}")
                self._lose_room()
                await self._log_in()
        await self._finish()

    async def _act(self, visit: Visit) -> None:
        what = self.random.random()
        if what < 0.80:
            self.x = min(max(self.x + self.random.randint(-STRIDE, STRIDE), 0), SIZE - 1)
            self.y = min(max(self.y + self.random.randint(-STRIDE, STRIDE), 0), SIZE - 1)
            self.send(Move(visit.number, visit.next_number(), self.x, self.y))
        elif what < 0.92:
            self.send(Chat(visit.number, visit.next_number(), self.random.choice(WORDS)))
        elif what < 0.95:
            self.shout_number += 1
            self.world.shouts += 1
            self.send(Shout(self.shout_number, "to everybody"))
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
        older, self.client, self.session = self.client, None, None
        assert older is not None
        await self._log_in()
        self.world.second_logins += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await older.wait_closed()
        except TimeoutError:
            raise TimeoutError(
                f"a newer login did not end the older one within {PATIENCE:g} s"
            ) from None
        if older.close_code is not CloseCode.REPLACED:
            self._suspect(f"the older login ended with {older.close_code!r}")
        await self._enter()

    async def _finish(self) -> None:
        """Leave, after all steps have come back."""
        if self.visit is not None:
            await self._leave_room()
        await self.disconnect()
        self._end_visit()

    # -- logging in --

    async def _register(self) -> None:
        """Make an account; try again while the service is away or has no gateway."""
        deadline = time.monotonic() + PATIENCE
        is_again = False
        while True:
            try:
                await self.world.login.register(self.name, self.world.password)
                self.world.logins += 1
                return
            except LoginFailed as error:
                if error.code == "name-taken" and is_again:
                    # an attempt before made it, and its answer was another refusal, or
                    # was lost
                    return
                if error.code == "name-taken" or time.monotonic() > deadline:
                    raise
                is_again = True
                await asyncio.sleep(
                    0.2 + self.random.random() * (error.retry_after or 0.5)
                )

    async def _log_in(self) -> None:
        await self.connect(user=self.name, password=self.world.password)
        self.world.logins += 1

    def on_suspended(self, session: Session) -> None:
        if session is self.session:
            self._suspect("a connection broke")
            self.lost_at = self.lost_at or time.monotonic()

    def on_resumed(self, session: Session) -> None:
        if self.visit is not None:
            self.lost_at = None

    def on_restarted(self, session: Session) -> None:
        self._lose_room()

    # -- rooms --

    async def _enter(self) -> None:
        """Ask the lobby for a room, and join it; again while they do not answer."""
        room = f"room-{self.random.randrange(self.world.rooms)}"
        deadline = time.monotonic() + PATIENCE
        while True:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"robot {self.number} was in no room for {PATIENCE:g} s"
                )
            # A kill that the loop has not seen yet may have cut this connection already.
            is_fresh = time.monotonic() - self.world.killed_at > 1.0
            self.deaths = self.world.deaths if is_fresh else self.world.deaths - 1
            session = self.session
            if await self._ask(Enter(room)) is None:
                self._suspect("the lobby does not answer")
                continue
            if self.session is not session:
                continue  # the lobby bound the old session to the room's server
            self.visits += 1
            visit = self.visit = Visit(self.uid, self.visits, self.world.verdict)
            if await self._ask(Join(room)) is None:
                self._suspect("the room does not answer")
            elif self.visit is visit:
                if self.lost_at is not None:
                    self.world.returns.append(time.monotonic() - self.lost_at)
                    self.lost_at = None
                return

    async def _leave_room(self) -> bool:
        """Leave the room, after all steps there have come back.

        Returns False if the room was lost meanwhile.
        """
        visit = self.visit
        if visit is None:
            return False
        answer = await self._ask(Part())
        if answer is None:
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

    async def _ask(self, message: Request[A]) -> A | None:
        """The answer; None if it is late, or a server or the session ends."""
        try:
            answer: A = await self.request(message, timeout=ANSWER)
            return answer
        except RequestFailed as error:
            if error.code is not RequestCode.TIMEOUT:
                await asyncio.sleep(0.1)  # before it asks again
            if self.client is not None and self.client.close_code is not None:
                raise SessionClosed(
                    self.client.close_code, self.client.close_reason
                ) from None
            return None

    def on_moved(self, session: Session, message: Moved) -> None:
        if self.visit is not None:
            self.visit.hear(message.uid, message.number)

    def on_chatted(self, session: Session, message: Chatted) -> None:
        if self.visit is not None:
            self.visit.hear(message.uid, message.number)

    def on_shouted(self, session: Session, message: Shouted) -> None:
        self.world.shouts_heard += 1

    def on_not_here(self, session: Session, message: NotHere) -> None:
        if self.visit is not None and self.visit.number == message.visit:
            self.visit.refused(message.number)
            self._suspect("a room does not know its player")
            self._lose_room()


async def live(player: Player) -> None:
    """Play. An error after which the player can't continue is an error of the run."""
    try:
        await player.run()
    except (GatelinkError, TimeoutError) as error:
        player.world.verdict.error(f"a robot gave up: {describe(error)}")
    finally:
        await player.disconnect()
