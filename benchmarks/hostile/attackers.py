"""The attackers, in a process of their own: `python -m benchmarks.hostile.attackers`, with commands on its stdin."""

import asyncio
import os
import select
import ssl
from random import Random
from time import perf_counter
from typing import Any

import uvloop

from benchmarks.children import obey
from benchmarks.hostile import websocket as ws
from benchmarks.hostile.server import CATALOG, FIRST_SLOW_UID, Echo
from benchmarks.hostile.swarm import GONE, Attack, Peer, Periodic, Swarm
from benchmarks.lateness import Core
from benchmarks.rawclient import frame, verify_request
from benchmarks.tlsclient import TlsRecords
from gatelink.wire.base import VERIFY_SUCCEEDED
from gatelink.wire.control import Features, Hello, Ticket, control_frame, decode_control
from gatelink.wire.frames import Frame, FrameDecoder, encode_frame
from gatelink.wire.handshake import Initiator
from gatelink.wire.resume import resume
from gatelink.wire.secure import SecureStream

SHARE = 0.5  # of a core
NICE = 10  # the good clients on the same core go first
ADDRESSES = 2_000  # of each attack
FIRST_UID = 10_000_000
HANDSHAKES = 64  # made before, and sent again and again: they cost the server as much as fresh ones
FLOOD = 1_000  # connections of a flood open at once
AGAIN = 100  # connections open at once of those that log in again and again
FEW = 10  # connections that flood with records: they cost their sender as much as the server

random = Random(1)

Plan = tuple[type[Attack], int, int, float]
"""An attack, its port, and its `most` and `pace`."""


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
    """Logs in, asks for 120 KB of echo a second, and never reads a byte: its outbox is full after 6 s.

    Its users come again, so what the server keeps for them does not grow with the time of the attack.
    """

    name = "never reads"
    period = 0.25
    receive_buffer = 4_096
    watched = GONE
    request = frame(CATALOG.find(Echo).id, bytes(30_000))

    def connected(self, peer: Peer) -> None:
        self.send(peer, verify_request(FIRST_UID + self.opened % self.most) + self.request * 16)
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


class Slots(Attack):
    """Few users, each on all slots that there could be: each login sends more than its rate, and leaves."""

    name = "logs in again"
    users = 20
    messages = frame(CATALOG.find(Echo).id, bytes(20)) * 300

    def connected(self, peer: Peer) -> None:
        self.send(peer, control_frame(Hello(features=0, slot=self.opened // self.users % 256)))

    def readable(self, peer: Peer) -> None:
        data = self.read(peer)
        if not data:
            return
        peer.sent += 1
        if peer.sent == 1:
            self.send(peer, verify_request(FIRST_UID + 3_000_000 + self.opened % self.users))
        elif data[4:6] == b"\x02\x00":  # ClientVertifySucceedRet; a refused slot gets CLOSE
            self.send(peer, self.messages)
            self.swarm.close(peer, lost=False)


class Lingers(Attack):
    """Is refused, and keeps the connection open."""

    name = "lingers"
    watched = select.EPOLLHUP | select.EPOLLERR
    body = verify_request(FIRST_UID)[6:-1]

    def connected(self, peer: Peer) -> None:
        self.send(peer, frame(1, self.body + b"x"))


class Talk:
    """A sealed connection of `BreaksOff`: what came, in reads of any size."""

    def __init__(self, initiator: Initiator) -> None:
        self.initiator = initiator
        self.decoder = FrameDecoder(1_000, turn_frames=1)  # of the answer to the handshake
        self.stream: SecureStream | None = None
        self.frames_in = FrameDecoder(65_536)
        self.frames: list[Frame] = []  # the first two


class BreaksOff(Attack):
    """Logs in with a ticket and breaks off; then resumes with messages behind RESUME."""

    name = "breaks off"
    key = b""
    messages = frame(CATALOG.find(Echo).id, bytes(8)) * 40

    def __init__(self, swarm: Swarm, port: int, most: int, pace: float, addresses: int) -> None:
        super().__init__(swarm, port, most, pace, addresses)
        self._tickets: list[Ticket] = []
        self._talks: dict[Peer, Talk] = {}
        self._uid = FIRST_UID + 1_000_000

    def connected(self, peer: Peer) -> None:
        self._talks[peer] = talk = Talk(Initiator(self.key, Hello(features=Features.RESUME | Features.PING)))
        self.send(peer, talk.initiator.frame)

    def closed(self, peer: Peer) -> None:
        self._talks.pop(peer, None)

    def readable(self, peer: Peer) -> None:
        data = self.read(peer)
        if not data:
            return
        talk = self._talks[peer]
        if talk.stream is None:
            answers = talk.decoder.feed(data)
            if not answers:
                return
            sealing = talk.initiator.finish(answers[0][2])
            talk.stream, data = sealing.stream, talk.decoder.take_rest()
            self.begin(peer, talk.stream, sealing.handshake_hash)
        talk.frames = [*talk.frames, *talk.frames_in.feed(talk.stream.feed(data))][:2]
        if len(talk.frames) > 1 and talk.frames[0][0] == VERIFY_SUCCEEDED:
            ticket_or_other = decode_control(talk.frames[1][2])
            if isinstance(ticket_or_other, Ticket):
                self._tickets.append(ticket_or_other)
            self.swarm.close(peer, lost=False)

    def begin(self, peer: Peer, stream: SecureStream, handshake_hash: bytes) -> None:
        """Resume with a ticket, or log in to get one."""
        if self._tickets:
            ticket = self._tickets.pop()
            record = resume(ticket.resume_key, handshake_hash, ticket.session_id, 0, 1)
            self.send(peer, stream.seal(control_frame(record) + self.messages))
        else:
            self._uid += 1
            self.send(peer, stream.seal(verify_request(self._uid)))


class KeyUpdates(Periodic):
    """Floods with TLS records that carry nothing but a change of key; every second connection logs in before."""

    name = "key updates"
    period = 0.02

    def __init__(self, swarm: Swarm, port: int, most: int, pace: float, addresses: int) -> None:
        super().__init__(swarm, port, most, pace, addresses)
        self._talks: dict[Peer, TlsRecords] = {}
        self._uid = FIRST_UID + 2_000_000

    def connected(self, peer: Peer) -> None:
        self._talks[peer] = talk = TlsRecords(trusting())
        self.send(peer, talk.out())

    def closed(self, peer: Peer) -> None:
        self._talks.pop(peer, None)

    def readable(self, peer: Peer) -> None:
        data = self.read(peer)
        talk = self._talks.get(peer)
        if talk is None or talk.is_open():
            return
        try:
            talk.take(data)
        except ssl.SSLError:
            self.swarm.close(peer, lost=True)
        if talk.is_open() and peer in self._talks:
            self.send(peer, talk.out())
            if self.opened % 2:
                self._uid += 1
                self.send(peer, talk.seal(verify_request(self._uid)))
            super().connected(peer)

    def again(self, peer: Peer) -> None:
        if peer in self._talks:
            self.send(peer, b"" if peer.rest else self._talks[peer].key_updates(20))


def trusting() -> ssl.SSLContext:
    """For a client that accepts any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Attackers:
    """The swarm, and what is asked of it."""

    def __init__(self) -> None:
        self.swarm = Swarm()
        self._core = Core()
        self._looked = 0.0
        self._before: dict[str, tuple[int, int]] = {}  # what each attack had opened and lost then
        self._work: asyncio.Task[None] | None = None

    def start(
        self, where: dict[str, Any], websocket: bool, silent: int, deaf: int, dribble: int, writes_on: int
    ) -> list[str]:
        """Begins, with every attack off; their names. websocket: those that are WebSocket's own."""
        web = where["ws"]
        key, plain, sealed = bytes.fromhex(where["key"]), where["plain"], where["sealed"]
        BreaksOff.key = key
        Handshakes.frames = tuple(Initiator(key, Hello(features=0, slot=0)).frame for _ in range(HANDSHAKES))
        of_websocket: tuple[Plan, ...] = (
            (ws.HalfOpen, web, silent, silent / 5),
            (ws.LongHeaders, web, FLOOD, 0),
            (ws.WrongRequests, web, FLOOD, 0),
            (ws.WrongTokens, web, FLOOD, 0),
            (ws.WrongFrames, web, FLOOD, 0),
            (ws.Pings, web, FEW, FEW),
            (ws.Fragments, web, FEW, FEW),
            (ws.Deaf, web, deaf, deaf / 3),
        )
        of_tcp: tuple[Plan, ...] = (
            (Silent, plain, silent, silent / 5),
            (Deaf, plain, deaf, deaf / 3),
            (Dribble, plain, dribble, dribble / 3),
            (WritesOn, plain, writes_on, writes_on / 3),
            (Garbage, plain, FLOOD, 0),
            (WrongTokens, plain, FLOOD, 0),
            (Handshakes, sealed, FLOOD, 0),
            (Slots, plain, AGAIN, 0),
            (BreaksOff, sealed, AGAIN, AGAIN),
            (KeyUpdates, where["tls"], FEW, FEW),
            (Lingers, plain, silent, silent / 5),
        )
        for kind, port, most, pace in of_websocket if websocket else of_tcp:
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
