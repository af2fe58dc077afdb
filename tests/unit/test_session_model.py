"""Clients that come, break, come back, are kicked, replaced and stopped in any order, against what must have arrived.

The server, the login check, the dialer and both sessions are the real ones; the network and the time are not.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, sampled_from

from gatelink import (
    Backoff,
    CloseCode,
    ConnectError,
    Handlers,
    Identity,
    Limits,
    Peer,
    Server,
    ServerKey,
    Session,
    connect,
)
from gatelink.errors import VerifyError
from gatelink.session.states import SessionState
from gatelink.wire.messages import Catalog
from tests.memory import WarpLoop

KEY = ServerKey.generate()
CATALOG = Catalog()
UID = 7
BACKOFF = Backoff(first=0.2, most=1.0, attempts=40)
LIMITS = Limits(window_frames=64, window_bytes=32_768, resume_window=60.0, reconnect_within=2.0)
SETTLED = 12.0  # s in which all messages arrive that can, and each client that can come back is back
ENDED = 60.0  # s after which each client that could not come back has given up
REPLACED = {CloseCode.REPLACED, CloseCode.RESUME_REFUSED}  # a client that was not told hears it when it resumes


@CATALOG.message(11_000)
class Number(msgspec.Struct):
    n: int
    padding: bytes = b""


class Life:
    """One login of the user and all that belongs to it; `token` is what it shows."""

    def __init__(self, number: int, waits: bool) -> None:
        self.token = f"login {number}"
        self.waits = waits  # its check does
        self.answer: asyncio.Future[bool] | None = None  # of its token's check
        self.task: asyncio.Task[Session]
        self.near: Session | None = None  # the client's session
        self.far: Session | None = None  # the server's
        self.up: list[int] = []  # what the server heard
        self.down: list[int] = []
        self.sent_up = self.sent_down = 0
        self.events: list[str] = []  # at the server
        self.may_end: set[CloseCode] = set()  # empty: it may not

    @property
    def is_live(self) -> bool:
        return self.far is not None and self.far.close_code is None


class Gate:
    """Tokens whose checks take as long as the test likes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lives: dict[bytes, Life] = {}

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        life = self.lives[token]
        life.answer = self.loop.create_future()
        if not life.waits:
            life.answer.set_result(True)
        if not await life.answer:
            raise VerifyError("not this one")
        return Identity(uid, {"life": life})


class SessionMachine(RuleBasedStateMachine):
    @initialize(sealed=booleans())
    def begin(self, sealed: bool) -> None:
        self.loop = WarpLoop()
        asyncio.set_event_loop(self.loop)
        self.unhandled: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.sealed = sealed
        self.gate = Gate(self.loop)
        self.lives: list[Life] = []
        self.stopped = False
        self.server = server = Server(
            "tcp://127.0.0.1:0", tokens=self.gate, catalog=CATALOG, keys=[KEY], resume_plain=True, limits=LIMITS
        )
        server.on_verified(lambda session: self.noted(session, "verified"))
        server.on_suspended(lambda session: self.noted(session, "suspended"))
        server.on_resumed(lambda session: self.noted(session, "resumed"))
        server.on_closed(lambda session: self.noted(session, "closed"))
        server.on(Number)(lambda session, message: self.life_of(session).up.append(message.n))
        self.do(server.start())
        self.loop.accept = self.accept
        self.log_in(waits=False)

    def accept(self) -> Any:
        if not self.server.is_running:
            raise ConnectionRefusedError(111, "stopped")
        return self.server._listeners[0]._protocol()

    def life_of(self, session: Peer) -> Life:
        life: Life = session.claims["life"]
        return life

    def noted(self, session: Session, event: str) -> None:
        life = self.life_of(session)
        life.events.append(event)
        life.far = session
        if event == "verified":  # at once, or when what was held flows again
            for older in self.lives:
                if older is not life and older.far is not None:
                    older.may_end |= {CloseCode.REPLACED, CloseCode.RESUME_REFUSED}

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def inside(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls `function` as a handler would be: by the loop."""

        async def call() -> None:
            function(*arguments)

        self.do(call())

    def pass_time(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    def turn(self) -> None:
        for _ in range(30):
            self.do(asyncio.sleep(0))

    @property
    def newest(self) -> Life | None:
        """Whose session the server has."""
        session = self.server.sessions.get(UID)
        return None if session is None else self.life_of(session)

    # -- rules --

    @precondition(lambda self: len(self.lives) < 6 and not self.stopped)
    @rule(waits=booleans(), unless=integers(0, 4))
    def dial(self, waits: bool, unless: int) -> None:
        """A login begins; its token is checked when it has got there, at once or when `verify` says so."""
        if not unless or self.newest is None:
            self.log_in(waits)

    def log_in(self, waits: bool) -> None:
        older = self.newest
        life = Life(len(self.lives), waits)
        self.lives.append(life)
        self.gate.lives[life.token.encode()] = life
        handlers = Handlers(CATALOG)
        handlers.on(Number)(lambda session, message: life.down.append(message.n))
        dialling = connect(
            "tcp://127.0.0.1:1",
            uid=UID,
            token=life.token,
            handlers=handlers,
            catalog=CATALOG,
            resume=True,
            reconnect=BACKOFF,
            limits=LIMITS,
            server_key=KEY.public if self.sealed else None,
        )
        life.task = self.loop.create_task(dialling)
        life.task.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        self.turn()
        if life.far is not None:
            self.check_newest(life, older)

    @rule(which=integers(0, 5), good=sampled_from([True, True, True, False]))
    def verify(self, which: int, good: bool) -> None:
        """Of several logins under way, in any order. The one that is verified last is the newest."""
        waiting = [life for life in self.lives if life.answer is not None and not life.answer.done()]
        if not waiting:
            return
        life = waiting[which % len(waiting)]
        older = self.newest
        assert life.answer is not None
        life.answer.set_result(good)
        self.turn()
        if not good:
            assert life.far is None and self.newest is older, "a client that is not verified has no effect"
            return
        if life.far is not None:
            self.check_newest(life, older)

    def check_newest(self, life: Life, older: Life | None) -> None:
        assert self.newest is life
        if older is not None:
            assert older.far is not None and older.far.close_code is CloseCode.REPLACED

    @rule(up=booleans(), count=integers(1, 30), size=sampled_from([0, 20, 900]), which=integers(0, 5))
    def send(self, up: bool, count: int, size: int, which: int) -> None:
        lives = [life for life in self.lives if (life.near if up else life.far) is not None]
        if not lives:
            return
        life = lives[which % len(lives)]
        session = life.near if up else life.far
        assert session is not None
        for _ in range(count):
            if session.close_code is not None or session.outbox.count > 3_000:
                return
            session.send(Number(life.sent_up if up else life.sent_down, bytes(size)))
            if up:
                life.sent_up += 1
            else:
                life.sent_down += 1

    @rule()
    def go_on(self) -> None:
        self.turn()

    @rule(seconds=sampled_from([0.15, 1.1, 4.0]))
    def wait(self, seconds: float) -> None:
        """Acknowledgements, redials; too short for anybody to give up."""
        self.pass_time(seconds)

    @rule(flowing=booleans())
    def hold(self, flowing: bool) -> None:
        self.loop.set_flowing(flowing)

    @rule(bytes_first=sampled_from([0, 1, 5, 17, 60, 300, 2_000, 100_000]))
    def cut(self, bytes_first: int) -> None:
        self.inside(self.loop.cut_all, bytes_first)
        self.turn()

    @rule(bytes_first=integers(0, 3_000))
    def come_back(self, bytes_first: int) -> None:
        """Messages on their way are lost, and the path is well again."""
        self.inside(self.loop.cut_all, bytes_first)
        self.loop.set_flowing(True)
        self.pass_time(3.0)

    @rule(last_words=sampled_from([0, 1, 200]), unless=integers(0, 4))
    def kick(self, last_words: int, unless: int) -> None:
        life = self.newest
        if unless or life is None or life.far is None:
            return
        is_well = self.is_well(life)
        for _ in range(last_words):
            life.far.send(Number(life.sent_down))
            life.sent_down += 1
        self.inside(life.far.kick, "enough")
        life.may_end |= {CloseCode.KICKED, CloseCode.RESUME_REFUSED}
        if is_well:
            self.pass_time(1)
            assert life.near is not None and life.near.close_code is CloseCode.KICKED
            assert life.down == list(range(life.sent_down)), "its last words, and all before them"
        assert self.newest is not life

    @rule(last_words=sampled_from([0, 1, 200]), which=integers(0, 5), unless=integers(0, 4))
    def leave(self, last_words: int, which: int, unless: int) -> None:
        lives = [life for life in self.lives if life.near is not None and life.near.close_code is None]
        if unless or not lives:
            return
        life = lives[which % len(lives)]
        assert life.near is not None and life.far is not None
        was_whole = self.is_well(life) and life.far.close_code is None
        for _ in range(last_words):
            life.near.send(Number(life.sent_up))
            life.sent_up += 1
        self.inside(life.near.close, CloseCode.NORMAL)
        life.may_end.add(CloseCode.NORMAL)
        if was_whole:
            self.pass_time(1)
            assert life.far.close_code is CloseCode.NORMAL and life.up == list(range(life.sent_up))

    @rule()
    def settle(self) -> None:
        """Once the path works, all messages arrive, and each client that can come back is back."""
        self.loop.set_flowing(True)
        self.pass_time(SETTLED)
        self.check_settled()

    @precondition(lambda self: not self.stopped)
    @rule(grace=sampled_from([0.0, 1.0]), last_words=integers(0, 3), unless=integers(0, 9))
    def stop(self, grace: float, last_words: int, unless: int) -> None:
        if unless:
            return
        life = self.newest
        whole = life is not None and self.is_well(life) and grace > 0
        if life is not None and life.far is not None:
            for _ in range(last_words):
                life.far.send(Number(life.sent_down))
                life.sent_down += 1
        self.stopped = True
        for each in self.lives:
            each.may_end |= {CloseCode.GOING_AWAY, CloseCode.RESUME_REFUSED, CloseCode.REPLACED}
        self.do(self.server.stop(grace))
        assert len(self.server.sessions) == 0 and not self.server.connections
        if whole and life is not None:
            assert life.down == list(range(life.sent_down)), "what was queued was delivered"

    def is_well(self, life: Life) -> bool:
        """Its connection is there at both ends, and nothing is held."""
        ends = (life.near, life.far)
        if not self.loop.flowing or any(end is None or end.state is not SessionState.OPEN for end in ends):
            return False
        self.pass_time(1.0)  # what was on its way, a break that nobody has noticed, a full window
        return all(end is not None and end.state is SessionState.OPEN and not end.outbox.count for end in ends)

    # -- what must be --

    def check_settled(self) -> None:
        for life in self.lives:
            near, far = life.near, life.far
            if near is None or far is None:
                continue
            if near.close_code is None and far.close_code is None:
                assert near.state is far.state is SessionState.OPEN, f"{near} {far}"
                assert life.up == list(range(life.sent_up)) and life.down == list(range(life.sent_down))
                assert near.outbox.held_bytes == far.outbox.held_bytes == 0, "all is acknowledged"

    @invariant()
    def nothing_is_lost_doubled_reordered_or_somebody_elses(self) -> None:
        for life in getattr(self, "lives", []):
            if life.task.done() and not life.task.cancelled() and life.near is None:
                error = life.task.exception()
                if error is None:
                    life.near = life.task.result()
                else:
                    assert isinstance(error, ConnectError)
            assert life.up == list(range(len(life.up))) and len(life.up) <= life.sent_up
            assert life.down == list(range(len(life.down))) and len(life.down) <= life.sent_down

    @invariant()
    def only_who_has_a_reason_ends(self) -> None:
        for life in getattr(self, "lives", []):
            if life.near is not None and life.near.close_code is not None:
                reasons = life.may_end | (REPLACED if self.is_replaced(life) else set())
                assert life.near.close_code in reasons, f"{life.near} may end with {reasons}"

    def is_replaced(self, life: Life) -> bool:
        """A newer login was verified, perhaps long after it began."""
        return any(other.far and life.far and other.far.epoch > life.far.epoch for other in self.lives)

    @invariant()
    def events_are_in_their_order(self) -> None:
        for life in getattr(self, "lives", []):
            events = life.events
            assert events[:1] in ([], ["verified"])
            assert "closed" not in events[:-1] and events.count("verified") <= 1
            between = [event for event in events if event in ("suspended", "resumed")]
            assert between == (["suspended", "resumed"] * len(between))[: len(between)]

    @invariant()
    def there_is_one_session_of_the_user(self) -> None:
        if hasattr(self, "server"):
            assert sum(life.is_live for life in self.lives) == len(self.server.sessions) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.loop.set_flowing(True)
            self.pass_time(SETTLED)
            self.nothing_is_lost_doubled_reordered_or_somebody_elses()
            if not self.stopped:
                self.check_settled()
            self.do(self.server.stop(1.0))
            self.pass_time(ENDED)
            for life in self.lives:
                assert life.task.done(), "no login hangs"
                if not life.task.cancelled() and life.task.exception() is None:
                    assert life.task.result().state is SessionState.CLOSED, "nobody tries for ever"
                assert life.far is None or life.events[-1] == "closed"
            left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            assert not left and not self.unhandled, f"{left} {self.unhandled}"
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
