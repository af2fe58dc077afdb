"""The attackers, in a process of their own: `python -m benchmarks.hostile.attackers`, with commands on its stdin."""

import asyncio
import os
from random import Random
from time import perf_counter
from typing import Any

import uvloop

from benchmarks.children import obey
from benchmarks.hostile.server import CATALOG, FIRST_SLOW_UID, Echo
from benchmarks.hostile.swarm import GONE, Attack, Peer, Periodic, Swarm
from benchmarks.lateness import Core
from benchmarks.rawclient import frame, verify_request
from gatelink.wire.control import Hello
from gatelink.wire.frames import encode_frame
from gatelink.wire.handshake import Initiator

SHARE = 0.5  # of a core
NICE = 10  # the good clients on the same core go first
ADDRESSES = 2_000  # of each attack
FIRST_UID = 10_000_000
HANDSHAKES = 64  # made before, and sent again and again: they cost the server as much as fresh ones
FLOOD = 1_000  # connections of a flood open at once

random = Random(1)


class Silent(Attack):
    """Connects, and says nothing."""

    name = "silent"

    def connected(self, peer: Peer) -> None: ...


class Dribble(Periodic):
    """Sends its login one byte a second."""

    name = "one byte a second"
    period = 1.0
    request = verify_request(FIRST_UID)

    def again(self, peer: Peer) -> None:
        self.send(peer, self.request[peer.sent % len(self.request) :][:1])
        peer.sent += 1


class Deaf(Periodic):
    """Logs in, asks for 60 KB of echo a second, and never reads a byte."""

    name = "never reads"
    period = 0.5
    receive_buffer = 4_096
    watched = GONE
    request = frame(CATALOG.find(Echo).id, bytes(30_000))

    uid = FIRST_UID

    def connected(self, peer: Peer) -> None:
        self.uid += 1
        self.send(peer, verify_request(self.uid))
        super().connected(peer)

    def again(self, peer: Peer) -> None:
        self.send(peer, b"" if peer.rest else self.request)


class WritesOn(Periodic):
    """Writes its login request, whose check takes long, and behind it all that the kernel takes."""

    name = "writes on"
    period = 0.5
    send_buffer = 16_384
    more = frame(CATALOG.find(Echo).id, bytes(100)) * 1_000

    uid = FIRST_SLOW_UID

    def connected(self, peer: Peer) -> None:
        self.uid += 1
        self.send(peer, verify_request(self.uid))
        self.again(peer)
        super().connected(peer)

    def again(self, peer: Peer) -> None:
        self.send(peer, b"" if peer.rest else self.more)


class Garbage(Attack):
    """Sends what is no login."""

    name = "garbage"
    junk = (
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(200),
        bytes(4),
        b"\xff\xff\xff\x00",
        b"\xff\xff\xff\xff",
        encode_frame(1, b"\x80\x80\x80\x80\x08" + bytes(64), 1),
        frame(20_001, b"before verification"),
        frame(1, b""),
        *(random.randbytes(size) for size in (7, 40, 300, 1_400, 4_000)),
    )

    def connected(self, peer: Peer) -> None:
        self.send(peer, random.choice(self.junk))


class WrongTokens(Attack):
    """Logs in with a token that is none, and waits for the answer."""

    name = "wrong tokens"
    body = verify_request(FIRST_UID)[6:-1]

    def connected(self, peer: Peer) -> None:
        self.send(peer, frame(1, self.body + b"x"))


class Handshakes(Attack):
    """Has the server work out a Noise handshake, and leaves."""

    name = "handshakes"
    frames: tuple[bytes, ...] = ()

    def connected(self, peer: Peer) -> None:
        self.send(peer, self.frames[self.opened % len(self.frames)])

    def readable(self, peer: Peer) -> None:
        self.swarm.close(peer, lost=False)


class Attackers:
    """The swarm, and what is asked of it."""

    def __init__(self) -> None:
        self.swarm = Swarm()
        self._core = Core()
        self._looked = 0.0
        self._before: dict[str, tuple[int, int]] = {}  # what each attack had opened and lost then
        self._work: asyncio.Task[None] | None = None

    def start(self, where: dict[str, Any], silent: int, deaf: int, dribble: int, writes_on: int) -> list[str]:
        """Begins, with every attack off; their names."""
        key, plain, sealed = bytes.fromhex(where["key"]), where["plain"], where["sealed"]
        Handshakes.frames = tuple(Initiator(key, Hello(features=0, slot=0)).frame for _ in range(HANDSHAKES))
        for kind, port, most, pace in (
            (Silent, plain, silent, silent / 5),
            (Deaf, plain, deaf, deaf / 3),
            (Dribble, plain, dribble, dribble / 3),
            (WritesOn, plain, writes_on, writes_on / 3),
            (Garbage, plain, FLOOD, 0),
            (WrongTokens, plain, FLOOD, 0),
            (Handshakes, sealed, FLOOD, 0),
        ):
            self.swarm.attacks.append(kind(self.swarm, port, most, pace, ADDRESSES))
        self._work = asyncio.create_task(self.swarm.run(SHARE))
        return [attack.name for attack in self.swarm.attacks]

    def attack(self, names: list[str]) -> None:
        """These go on, the others stop; what they had open is closed."""
        for attack in self.swarm.attacks:
            attack.on = attack.name in names
        self.swarm.close_all()

    def phase(self) -> dict[str, Any]:
        """What was done since the last call: connections open now, opened and lost a second."""
        assert self._work is not None
        if self._work.done():
            self._work.result()
        now = perf_counter()
        seconds, self._looked = now - self._looked, now
        attacks = {}
        for attack in self.swarm.attacks:
            opened, lost = self._before.get(attack.name, (0, 0))
            self._before[attack.name] = attack.opened, attack.lost
            attacks[attack.name] = {
                "open": attack.open,
                "opened": (attack.opened - opened) / seconds,
                "lost": (attack.lost - lost) / seconds,
                "late": attack.late,
            }
            attack.late = 0.0
        return {"cpu": self._core.take()[0], "attacks": attacks}

    async def main(self) -> None:
        await obey({"start": self.start, "attack": self.attack, "phase": self.phase})


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(Attackers().main())
