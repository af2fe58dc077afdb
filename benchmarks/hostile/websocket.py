"""The attackers that are WebSocket's own: in the HTTP request, and in the frames before and after the login."""

import select
from abc import abstractmethod
from random import Random

from benchmarks.hostile.server import CATALOG, Echo
from benchmarks.hostile.swarm import GONE, Attack, Peer, Periodic
from benchmarks.rawclient import frame, verify_request

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: gatelink.1\r\n\r\n"
)
FIRST_UID = 11_000_000
CONTINUATION, BINARY, CLOSE, PING = 0, 2, 8, 9

random = Random(2)


def masked(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """A frame of a client; the mask is zero, which costs the server as much as any other."""
    size = len(payload)
    head = bytes((0x80 * fin | opcode, 0x80 | min(size, 126)))
    if size >= 126:
        head += size.to_bytes(2, "big")
    return head + bytes(4) + payload


def in_fragments(data: bytes) -> bytes:
    """`data` as one message in fragments of one byte."""
    last = len(data) - 1
    return b"".join(
        masked(CONTINUATION if at else BINARY, data[at : at + 1], fin=at == last) for at in range(len(data))
    )


class HalfOpen(Periodic):
    """Sends half of its request, and the rest one byte a second."""

    name = "half an upgrade"
    period = 1.0
    at = len(REQUEST) // 2

    def connected(self, peer: Peer) -> None:
        self.send(peer, REQUEST[: self.at])
        super().connected(peer)

    def again(self, peer: Peer) -> None:
        self.send(peer, REQUEST[self.at + peer.sent :][:1])
        peer.sent += 1


class LongHeaders(Attack):
    """Sends a request with 64 KiB of headers, as much of it as the server takes."""

    name = "64 KiB of headers"
    request = REQUEST[:-2] + b"".join(b"X-%d: %b\r\n" % (number, b"x" * 1_000) for number in range(64)) + b"\r\n"

    def connected(self, peer: Peer) -> None:
        self.send(peer, self.request)


class WrongRequests(Attack):
    """Sends a request that opens no WebSocket."""

    name = "wrong requests"
    requests = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(200),
        REQUEST * 4,
        REQUEST.replace(b"Version: 13", b"Version: 8"),
        REQUEST.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="),
        REQUEST.replace(b"gatelink.1", b"mqtt"),
        REQUEST[:-2] + b"Origin: https://elsewhere.example\r\n\r\n",
        verify_request(FIRST_UID),
        *(random.randbytes(size) for size in (7, 300, 4_000)),
    )

    def connected(self, peer: Peer) -> None:
        self.send(peer, random.choice(self.requests))


class Upgraded(Attack):
    """Has its WebSocket opened; then `upgraded` is called."""

    def connected(self, peer: Peer) -> None:
        self.send(peer, REQUEST)

    def readable(self, peer: Peer) -> None:
        data = self.read(peer)
        if data and not peer.sent:
            peer.sent = 1
            self.upgraded(peer)

    @abstractmethod
    def upgraded(self, peer: Peer) -> None: ...


class WrongTokens(Upgraded):
    """Logs in with a token that is none, and waits for the answer."""

    name = "wrong tokens"
    login = masked(BINARY, frame(1, verify_request(FIRST_UID)[6:-1] + b"x"))

    def upgraded(self, peer: Peer) -> None:
        self.send(peer, self.login)


class WrongFrames(Upgraded):
    """Sends a frame that RFC 6455 does not allow; every second one keeps the connection open after that."""

    name = "wrong frames"
    frames = (
        b"\x82\x05hello",  # not masked
        masked(1, b"text"),
        masked(CONTINUATION, b"of nothing"),
        masked(3, b"no such opcode"),
        b"\xc2" + masked(BINARY, b"compressed")[1:],
        masked(PING, bytes(126)),
        masked(CLOSE, b"\x03"),
        masked(CLOSE, (1005).to_bytes(2, "big")),
        b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4),
        b"\x82\xfe\x00\x01" + bytes(5),
    )

    def upgraded(self, peer: Peer) -> None:
        self.send(peer, random.choice(self.frames))

    def readable(self, peer: Peer) -> None:
        if peer.sent and self.opened % 2:
            self.swarm.watch(peer, select.EPOLLHUP | select.EPOLLERR)
        else:
            super().readable(peer)


class Flood(Periodic, Upgraded):
    """Floods with frames that carry next to nothing; every second connection logs in before."""

    period = 0.02
    watched = select.EPOLLIN | GONE
    some: bytes
    """What each period sends."""

    def connected(self, peer: Peer) -> None:
        Upgraded.connected(self, peer)

    def upgraded(self, peer: Peer) -> None:
        if self.opened % 2:
            self.send(peer, masked(BINARY, verify_request(FIRST_UID + self.opened)))
        Periodic.connected(self, peer)

    def again(self, peer: Peer) -> None:
        self.send(peer, b"" if peer.rest else self.some)


class Pings(Flood):
    name = "pings"
    some = masked(PING, b"x" * 125) * 20


class Fragments(Flood):
    """Messages in fragments of one byte."""

    name = "fragments of a byte"
    some = in_fragments(frame(CATALOG.find(Echo).id, bytes(14)))


class Deaf(Periodic):
    """Logs in, asks for 120 KB of echo a second, and never reads a byte: its outbox is full after 6 s."""

    name = "never reads"
    period = 0.25
    receive_buffer = 4_096
    watched = GONE
    request = masked(BINARY, frame(CATALOG.find(Echo).id, bytes(30_000)))

    def connected(self, peer: Peer) -> None:
        login = masked(BINARY, verify_request(FIRST_UID + 1_000_000 + self.opened % self.most))
        self.send(peer, REQUEST)
        peer.rest += (
            login + self.request * 16
        )  # goes out with `again`: nothing may come before the answer to the request
        super().connected(peer)

    def again(self, peer: Peer) -> None:
        self.send(peer, b"" if peer.rest else self.request)
