"""All robots of the rig, in a process of their own: `python -m tests.adversity.cluster.robots`, commands on its stdin.

Robots hold sessions with resume, and send numbered messages. Every sixth robot has a second device: it logs in again
and again while its session lives, at the other gateway. Beside them new players log in twice a second at each login.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path
from random import Random
from typing import Any

import httpx
import uvloop

from benchmarks.children import obey
from gatelink import CloseCode, ConnectError, GatelinkError, Handlers, Session, connect
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.messages import LoginReply
from tests.adversity.cluster.events import Answered, Ended, Event, Health, Journal, Opened, Probed, Sent, now
from tests.adversity.cluster.messages import CATALOG, Down, Up

PERIOD = 0.25  # s between two messages of a session
PHASES = 5  # in which robots send: not all of them at once
SECOND_DEVICE = 6  # one robot of so many has one
STAYS = 3.0, 6.0  # s from a login of such a robot to its next
AGAIN = 0.5, 1.5  # s from a refusal to the next try
PROBES = 0.5  # s between two new players at a login
PROBE_TIMEOUT = 5.0  # s for the login, and again for the connection and the first answer
PROBERS = 24  # devices of the new players of one login: twice as many as may be under way
TIMEOUT = 10.0  # s for a robot's login or connection
DRAINING = 10.0  # s for the last answers
CLOSING = 5.0  # s for the sessions to end in order
QUIET = 1.5  # s without a refusal, and since which each robot was answered: all is well
TEXT = 80  # characters of an error


class Robot:
    """One user: its sessions, of which the newest counts."""

    def __init__(self, robots: "Robots", index: int) -> None:
        self.robots = robots
        self.index = index
        self.device = f"{robots.random.getrandbits(128):032x}"
        self.has_second_device = index % SECOND_DEVICE == 0
        self.answered = 0.0
        self.sessions: dict[int, Session] = {}  # by number of the login, until they end
        self._logins = itertools.count(1)
        self._sent: dict[int, int] = {}  # messages, by number of the login
        self._missing: dict[int, int] = {}  # answers, likewise

    async def run(self) -> None:
        """Log in, and again whenever the session has ended or the second device is used."""
        avoided = self.robots.gateways[self.index % len(self.robots.gateways)]  # or all may begin at one gateway
        while True:
            session, gateway = await self._open(avoided)
            avoided = gateway if self.has_second_device else ""
            waits = self.robots.random.uniform(*STAYS) if self.has_second_device else None
            try:
                async with asyncio.timeout(waits):
                    await session.wait_closed()
                await asyncio.sleep(self.robots.random.uniform(*AGAIN))
            except TimeoutError:
                pass

    async def _open(self, other_than: str) -> tuple[Session, str]:
        """A session, and its gateway: another one than `other_than`, if the robot knows one."""
        robots = self.robots
        while True:
            try:
                reply = await robots.random.choice(robots.logins).guest(self.device)
                gateway = reply.addresses["tcp"]
                if gateway == other_than:
                    gateway = next((each for each in robots.gateways if each != other_than), gateway)
                number = next(self._logins)
                session = await connect(
                    gateway,
                    uid=reply.uid,
                    token=reply.token,
                    handlers=self._handlers(number),
                    catalog=CATALOG,
                    server_key=bytes.fromhex(reply.public_key),
                    resume=True,
                    timeout=TIMEOUT,
                )
            except (LoginFailed, ConnectError):
                await asyncio.sleep(robots.random.uniform(*AGAIN))
                continue
            robots.note(Opened(now(), reply.uid, number, gateway))
            if session.close_code is None:
                self.sessions[number] = session
            return session, gateway

    def _handlers(self, number: int) -> Handlers:
        handlers = Handlers(CATALOG)

        @handlers.on(Down)
        def down(session: Session, message: Down) -> None:
            self.answered = now()
            self._missing[message.login] = self._missing.get(message.login, 0) - 1
            self.robots.note(Answered(self.answered, session.uid, message.login, message.number))

        @handlers.on_closed
        def closed(session: Session) -> None:
            self.sessions.pop(number, None)
            code = session.close_code or CloseCode.NORMAL
            self.robots.note(Ended(now(), session.uid, number, int(code), session.close_reason))

        return handlers

    def send(self) -> None:
        """The next message of each session."""
        for login, session in list(self.sessions.items()):
            number = self._sent.get(login, 0)
            at = now()
            try:
                session.send(Up(login, number))
            except GatelinkError:
                continue  # it has just ended, or its outbox is full: the message was not accepted
            self._sent[login] = number + 1
            self._missing[login] = self._missing.get(login, 0) + 1
            self.robots.note(Sent(at, session.uid, login, number))

    def owed(self) -> bool:
        """Whether an answer to a living session is missing."""
        return any(self._missing.get(login, 0) > 0 for login in self.sessions)


class Robots:
    """All robots, and the new players."""

    def __init__(self) -> None:
        self.random = Random()
        self.logins: list[LoginClient] = []
        self.gateways: list[str] = []
        self.robots: list[Robot] = []
        self.late = 0.0  # s by which the sending was late, at most, since the last question
        self._journal: Journal | None = None
        self._events: list[Event] = []
        self._refused = 0.0  # when the last new player was
        self._probed: dict[str, float] = {}  # when one last was not, by login
        self._tasks: list[asyncio.Task[Any]] = []
        self._sending: asyncio.Task[None] | None = None

    def note(self, event: Event) -> None:
        self._events.append(event)

    async def start(self, logins: dict[str, str], gateways: list[str], robots: int, journal: str, seed: str) -> None:
        """Begin. logins: URLs, by name; gateways: addresses; journal: the file for the events."""
        self.random = Random(seed)
        self._journal = Journal(Path(journal))
        self.gateways = gateways
        self.logins = [LoginClient(url, timeout=TIMEOUT) for url in logins.values()]
        self.robots = [Robot(self, index) for index in range(robots)]
        self._tasks = [asyncio.create_task(robot.run()) for robot in self.robots]
        for name, url in logins.items():
            self._tasks += [asyncio.create_task(self._probe(name, url)), asyncio.create_task(self._examine(name, url))]
        self._sending = asyncio.create_task(self._send())

    def well(self) -> bool:
        """Whether every robot was just answered, and no new player was just refused."""
        self._check()
        since = now() - QUIET
        return (
            self._refused < since
            and len(self._probed) == len(self.logins)
            and all(at > since - PROBE_TIMEOUT for at in self._probed.values())
            and all(robot.answered > since for robot in self.robots)
        )

    def lateness(self) -> float:
        """Seconds by which this process was late with its messages, at most, since the last question."""
        self._check()
        late, self.late = self.late, 0.0
        return late

    async def stop(self) -> None:
        """Send no more, wait for the last answers, and close what is left."""
        self._check()
        for task in self._tasks:
            task.cancel()
        assert self._sending is not None
        self._sending.cancel()
        await asyncio.gather(*self._tasks, self._sending, return_exceptions=True)
        try:
            async with asyncio.timeout(DRAINING):
                while any(robot.owed() for robot in self.robots):  # noqa: ASYNC110 - answers of many sessions
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass  # they are lost, and the analysis says so
        self._write()  # what ends from now on is no news
        left = [session for robot in self.robots for session in robot.sessions.values()]
        for session in left:
            session.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await asyncio.gather(*(session.wait_closed() for session in left))

    async def _send(self) -> None:
        due = now()
        for phase in itertools.cycle(range(PHASES)):
            for robot in self.robots[phase::PHASES]:
                robot.send()
            self._write()
            due += PERIOD / PHASES
            self.late = max(self.late, now() - due)
            await asyncio.sleep(due - now())

    async def _probe(self, name: str, url: str) -> None:
        """New players at one login, each PROBES after the one before, however long that one takes."""
        devices = [f"{self.random.getrandbits(128):032x}" for _ in range(PROBERS)]
        async with LoginClient(url, timeout=PROBE_TIMEOUT) as client, asyncio.TaskGroup() as group:
            for device in itertools.cycle(devices):
                group.create_task(self._arrive(name, client, device))
                await asyncio.sleep(PROBES)

    async def _examine(self, name: str, url: str) -> None:
        """Ask a login for its health, as a balancer does."""
        async with httpx.AsyncClient(timeout=PROBES, trust_env=False) as client:
            while True:
                at, status = now(), 0
                with contextlib.suppress(httpx.HTTPError):
                    status = (await client.get(f"{url}/healthz")).status_code
                self.note(Health(at, name, status))
                await asyncio.sleep(max(0.0, at + PROBES - now()))

    async def _arrive(self, name: str, client: LoginClient, device: str) -> None:
        began = now()
        error, has_token = "", False
        try:
            reply = await client.guest(device)
            has_token = True
            await self._play(reply)
            self._probed[name] = now()
        except (LoginFailed, ConnectError, TimeoutError) as failure:
            error = str(failure)[:TEXT] or type(failure).__name__
            self._refused = now()
        self.note(Probed(began, name, now() - began, error, has_token))

    async def _play(self, reply: LoginReply) -> None:
        """Connect, and be answered once. Raises ConnectError, TimeoutError."""
        answer = asyncio.Event()
        handlers = Handlers(CATALOG)
        handlers.on(Down)(lambda session, message: answer.set())
        async with asyncio.timeout(PROBE_TIMEOUT):
            session = await connect(
                reply.addresses["tcp"],
                uid=reply.uid,
                token=reply.token,
                handlers=handlers,
                catalog=CATALOG,
                server_key=bytes.fromhex(reply.public_key),
                timeout=PROBE_TIMEOUT,
            )
            try:
                session.send(Up(0, 0))
                await answer.wait()
            finally:
                session.abort()

    def _write(self) -> None:
        if self._events and self._journal is not None:
            self._journal.note(*self._events)
            self._events.clear()

    def _check(self) -> None:
        """Raise what ended a task: none should end by itself."""
        for task in [*self._tasks, *([self._sending] if self._sending else [])]:
            if task.done():
                task.result()


if __name__ == "__main__":
    it = Robots()
    uvloop.run(obey({"start": it.start, "well": it.well, "lateness": it.lateness, "stop": it.stop}))
