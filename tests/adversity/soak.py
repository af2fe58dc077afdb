"""Sessions over breaking connections for a long time: is anything lost, and does anything pile up?

    python -m tests.adversity.soak [--seconds 600] [--robots 24] [--seed 1]

Robots live one short life after the other, through proxies that break their connections: base, sealed and TLS
sessions that talk, are kicked, are replaced by a newer login of their user, leave without a word, or never read. The
server has a process of its own, of which memory and descriptors are looked at all the while. After the warm-up, the
first half, neither may grow.
"""

import argparse
import asyncio
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import uvloop

from benchmarks.children import Child
from benchmarks.ledger import Ledger
from gatelink import Backoff, CloseCode, ConnectError, Handlers, Session, SessionClosed, connect
from gatelink.testing import ChaosProxy, Drop, HalfClose, Reset, Stall
from gatelink.wire.frames import encode_frame
from tests.adversity.soak_server import CATALOG, LIMITS, Blob, Bye, KickMe, Note, Verdict
from tests.e2e.support import make_certificate, verify_request

SCRIPT = (
    Reset(mean_bytes=8_000),
    HalfClose(mean_bytes=40_000),
    Stall(seconds=0.1, mean_bytes=10_000),
    Drop(mean_bytes=60_000),
    Reset(mean_seconds=10.0),
)
"""What the proxies do to every connection."""

SOON = Backoff(first=0.02, most=0.5, attempts=100)
BURST = 8  # messages
PAUSE = 0.03  # s between two bursts
LONGEST = LIMITS.resume_window + 15.0  # s that a robot waits for one thing
MEMORY_SLOPE = 512.0  # KiB a minute that memory may grow by after the warm-up, by least squares: allocators are lumpy
FILES_SLOPE = 0.5  # descriptors a minute that belong to no connection
GREED = encode_frame(CATALOG.find(Blob).id, bytes(50_000)) * 100
JUDGED = 120.0  # s from which a run says something about slopes


class Where(NamedTuple):
    """How the robots reach the server."""

    tcp: str
    tls: str
    key: bytes
    context: ssl.SSLContext
    port: int  # of the server itself


class Soak:
    """The robots' side: their lives, and what they counted."""

    def __init__(self, where: Where, seed: int) -> None:
        self.where = where
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.lives: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._uid = 0

    async def robot(self) -> None:
        """One life after the other."""
        while True:
            self._uid += 1
            kind = self.random.choice(("base", "sealed", "tls"))
            life = self.random.choices(
                (self._talk, self._be_kicked, self._be_replaced, self._leave, self._never_read), (8, 2, 2, 2, 1)
            )[0]
            try:
                async with asyncio.timeout(LONGEST * 3):
                    await life(self._uid, kind)
                self.lives[life.__name__[1:]] += 1
                self.kinds[kind] += 1
            except ConnectError:
                self.counts["logins that broke"] += 1
            except TimeoutError:
                self.unexpected.append(f"{life.__name__[1:]} {kind} of uid {self._uid} took too long")
            await asyncio.sleep(self.random.random() * PAUSE)

    # -- lives --

    async def _talk(self, uid: int, kind: str) -> None:
        """All that is sent comes back once, in order, over any number of breaks; a base session's up to its break."""
        talk = Talk(self, uid, kind)
        async with talk:
            await talk.say(self.random.randint(1, 40))
            if kind != "base":
                await talk.end()
                return
            with suppress(SessionClosed):
                talk.session.send(Bye(talk.sent))
            async with asyncio.timeout(LONGEST):
                await talk.over.wait()
        if talk.verdict is None:  # it broke: what was queued for it and not sent may still come, the rest is lost
            back = Talk(self, uid, kind, talk)
            async with back:
                await back.say(3)
        self.wrong += Counter(doubled=talk.ledger.doubled, reordered=talk.ledger.reordered)

    async def _be_kicked(self, uid: int, kind: str) -> None:
        talk = Talk(self, uid, kind)
        async with talk:
            await talk.say(self.random.randint(0, 5))
            with suppress(SessionClosed):
                talk.session.send(KickMe())
            async with asyncio.timeout(LONGEST):
                await talk.session.wait_closed()
            talk.check_end(CloseCode.KICKED, CloseCode.RESUME_REFUSED)

    async def _be_replaced(self, uid: int, kind: str) -> None:
        older = Talk(self, uid, kind)
        async with older:
            await older.say(self.random.randint(0, 5))
            newer = Talk(self, uid, kind)
            async with newer:
                async with asyncio.timeout(LONGEST):
                    await older.session.wait_closed()
                older.check_end(CloseCode.REPLACED, CloseCode.RESUME_REFUSED)
                if kind != "base":
                    await newer.say(5)
                    await newer.end()

    async def _leave(self, uid: int, kind: str) -> None:
        talk = Talk(self, uid, kind)
        async with talk:
            await talk.say(self.random.randint(0, 10))
            talk.session.abort()

    async def _never_read(self, uid: int, kind: str) -> None:
        """Asks for more than its outbox may hold, and reads nothing of it. It comes past the proxies."""
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(3):
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(client, ("127.0.0.1", self.where.port))
                    await loop.sock_sendall(client, verify_request(uid) + GREED)
                    await asyncio.sleep(1)


class Talk:
    """One session of a robot, and its ledger; `before`: it is back, and goes on counting."""

    session: Session

    def __init__(self, soak: Soak, uid: int, kind: str, before: "Talk | None" = None) -> None:
        self.soak = soak
        self.uid = uid
        self.kind = kind
        self.sent: int = before.sent if before is not None else 0
        self.ledger: Ledger = before.ledger if before is not None else Ledger()
        self.verdict: Verdict | None = None
        self.over = asyncio.Event()
        self.broke_at = 0.0
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Note)(self._note)
        handlers.on(Verdict)(self._take_verdict)
        handlers.on_suspended(self._suspended)
        handlers.on_resumed(lambda session: soak.counts.update(resumed=1))
        handlers.on_closed(lambda session: self.over.set())

    async def __aenter__(self) -> "Talk":
        where = self.soak.where
        how: dict[str, Any] = {}
        if self.kind == "base":
            how = {"base_protocol": True}
        else:
            how = {"resume": True, "reconnect": SOON}
        if self.kind == "sealed":
            how["server_key"] = where.key
        elif self.kind == "tls":
            how["tls"] = where.context
        endpoint = where.tls if self.kind == "tls" else where.tcp
        self.session = await connect(
            endpoint,
            uid=self.uid,
            token=f"{self.uid:032d}",
            handlers=self.handlers,
            catalog=CATALOG,
            limits=LIMITS,
            timeout=2.0,
            **how,
        )
        self.soak.counts["sessions"] += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.verdict is not None:
            self.session.close()
        else:
            self.session.abort()
        await self.session.wait_closed()

    async def say(self, bursts: int) -> None:
        """Sends, and hears the echoes meanwhile; stops when the session has ended."""
        with suppress(SessionClosed):
            for _ in range(bursts):
                for _ in range(BURST):
                    self.session.send(Note(self.sent, "x" * (self.sent % 50)))
                    self.sent += 1
                await asyncio.sleep(PAUSE)

    async def end(self) -> None:
        """Both sides have heard everything, once and in order."""
        soak = self.soak
        with suppress(SessionClosed):
            self.session.send(Bye(self.sent))
        async with asyncio.timeout(LONGEST):
            await self.over.wait()
        if self.verdict is None:
            self.check_end()
        else:
            soak.wrong += Counter(self.verdict.wrong) + self.ledger.losses(self.sent)

    def check_end(self, *codes: CloseCode) -> None:
        """It ended with one of `codes`, or was without a connection for as long as the window is open.

        A base session hears no code, and may have broken before.
        """
        detached = time.monotonic() - self.broke_at
        if self.kind == "base" or self.session.close_code in codes:
            return
        if LIMITS.resume_window - LIMITS.heartbeat_timeout - 1 < detached < LIMITS.resume_window + LONGEST:
            self.soak.counts["windows over"] += 1
        else:
            reason = f"{self.session.close_code!r} {self.session.close_reason!r} {detached:.1f} s after its last break"
            self.soak.unexpected.append(f"{self.kind} session of uid {self.uid} ended with {reason}")

    def _note(self, session: Session, message: Note) -> None:
        self.ledger.take(message.n)
        self.soak.counts["messages"] += 1

    def _suspended(self, session: Session) -> None:
        self.broke_at = time.monotonic()

    def _take_verdict(self, session: Session, message: Verdict) -> None:
        self.verdict = message
        self.over.set()


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Of (minutes, value), by least squares: value per minute; 0 for less than two."""
    count = len(samples)
    if count < 2:
        return 0.0
    middle = sum(at for at, _ in samples) / count
    mean = sum(value for _, value in samples) / count
    spread = sum((at - middle) ** 2 for at, _ in samples)
    return sum((at - middle) * (value - mean) for at, value in samples) / spread


async def run(seconds: float, robots: int, seed: int, show: bool = True) -> list[str]:
    """What went wrong, in words; nothing in a good run."""
    with tempfile.TemporaryDirectory() as folder, Child("tests.adversity.soak_server") as server:
        certificate, key, context = make_certificate(Path(folder))

        async def ask(command: str, **arguments: Any) -> Any:
            return await asyncio.to_thread(server.ask, command, **arguments)

        ports = await ask("start", certificate=certificate, key=key)
        before = await ask("sample")
        samples: list[dict[str, Any]] = []
        async with (
            ChaosProxy(("127.0.0.1", ports["tcp"]), SCRIPT, seed=seed) as tcp,
            ChaosProxy(("127.0.0.1", ports["tls"]), SCRIPT, seed=seed + 1) as tls,
        ):
            where = Where(
                tcp=f"tcp://127.0.0.1:{tcp.address[1]}",
                tls=f"tls://127.0.0.1:{tls.address[1]}",
                key=bytes.fromhex(ports["key"]),
                context=context,
                port=ports["tcp"],
            )
            soak = Soak(where, seed)
            began = time.monotonic()
            lives = [asyncio.create_task(soak.robot()) for _ in range(robots)]
            while (elapsed := time.monotonic() - began) < seconds:
                await asyncio.wait(lives, timeout=min(1.0, seconds - elapsed), return_when=asyncio.FIRST_EXCEPTION)
                for life in lives:
                    if life.done():
                        life.result()
                samples.append(await ask("sample") | {"at": (time.monotonic() - began) / 60})
                if show and len(samples) % 10 == 0:
                    print(progress(samples[-1], soak, tcp.breaks + tls.breaks), file=sys.stderr, flush=True)
            for life in lives:
                life.cancel()
            await asyncio.wait(lives)
            breaks = tcp.breaks_by + tls.breaks_by
        after = await emptied(ask, detached=seconds >= JUDGED)
        await ask("stop")
    return judge(soak, samples, before, after, breaks, seconds)


async def emptied(ask: Any, detached: bool) -> dict[str, Any]:
    """The server's sample when nobody is connected any more, or should be; `detached`: and no session waits either."""
    deadline = time.monotonic() + LIMITS.heartbeat_timeout + LIMITS.close_timeout + 3
    deadline += LIMITS.resume_window if detached else 0
    while True:
        sample: dict[str, Any] = await ask("sample")
        left = sample["connections"] + (sample["sessions"] if detached else 0)
        if not left or time.monotonic() > deadline:
            return sample
        await asyncio.sleep(0.1)


def progress(sample: dict[str, Any], soak: Soak, breaks: int) -> str:
    return (
        f"{sample['at'] * 60:5.0f} s  memory {sample['memory'] / 1024:,.0f} KiB  descriptors {sample['files']}  "
        f"sessions {sample['sessions']} now, {soak.counts['sessions']:,} so far  messages {soak.counts['messages']:,}  "
        f"breaks {breaks:,}  resumed {soak.counts['resumed']:,}  wrong {soak.wrong.total()}"
    )


def judge(
    soak: Soak,
    samples: list[dict[str, Any]],
    before: dict[str, Any],
    after: dict[str, Any],
    breaks: Counter[str],
    seconds: float,
) -> list[str]:
    """Prints the figures; what went wrong."""
    late = samples[len(samples) // 2 :]
    memory = slope([(sample["at"], sample["memory"] / 1024) for sample in late])
    files = slope([(sample["at"], sample["files"] - sample["connections"]) for sample in late])
    by = ", ".join(f"{name} {count:,}" for name, count in sorted(breaks.items()))
    kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(soak.kinds.items()))
    lives = ", ".join(f"{name} {count:,}" for name, count in sorted(soak.lives.items()))
    print(f"{seconds:.0f} s, {soak.counts['sessions']:,} sessions ({kinds}), {soak.counts['messages']:,} messages back")
    print(
        f"lives: {lives}; logins that broke: {soak.counts['logins that broke']:,}; "
        f"sessions that did not get through within their window: {soak.counts['windows over']}"
    )
    print(f"{breaks.total():,} broken connections ({by}), {soak.counts['resumed']:,} resumed")
    print(f"server: {after['verified']:,} logins, ended {after['closed']}")
    print(
        f"memory {before['memory'] / 1024:,.0f} KiB at first, {max(s['memory'] for s in samples) / 1024:,.0f} at most, "
        f"{after['memory'] / 1024:,.0f} at the end; slope over the second half {memory:+,.0f} KiB/min"
    )
    print(
        f"descriptors {before['files']} at first, {max(s['files'] for s in samples)} at most, {after['files']} at the "
        f"end; slope of those that are no connection's {files:+.2f}/min"
    )
    wrong = {name: count for name, count in soak.wrong.items() if count}
    print("lost 0, doubled 0, reordered 0" if not wrong else f"WRONG {wrong}")
    problems = [*soak.unexpected[:20]]
    if wrong:
        problems.append(f"messages: {wrong}")
    if after["errors"]:
        problems.append(f"{after['errors']} handlers of the server raised")
    if after["connections"] or (after["sessions"] and seconds >= JUDGED):
        problems.append(f"{after['connections']} connections and {after['sessions']} sessions stayed")
    if after["files"] != before["files"]:
        problems.append(f"{after['files'] - before['files']:+d} descriptors are left at the end")
    if seconds >= JUDGED and memory > MEMORY_SLOPE:
        problems.append(f"memory grew by {memory:,.0f} KiB a minute, more than {MEMORY_SLOPE:g}")
    if seconds >= JUDGED and abs(files) > FILES_SLOPE:
        problems.append(f"descriptors grew by {files:.2f} a minute")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.adversity.soak", description="A long time under chaos.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (600)")
    parser.add_argument("--robots", type=int, default=24, help="how many live at the same time (24)")
    parser.add_argument("--seed", type=int, default=1, help="of the robots and of what breaks (1)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.robots} robots", flush=True)
    problems = uvloop.run(asyncio.wait_for(run(options.seconds, options.robots, options.seed), options.seconds + 120))
    for problem in problems:
        print(f"FAILED {problem}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
