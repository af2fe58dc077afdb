"""Thousands of hostile connections from many addresses, in one epoll, within a share of a core."""

import asyncio
import select
import socket
import struct
from abc import ABC, abstractmethod
from collections import deque
from errno import EINPROGRESS
from time import perf_counter, process_time

from benchmarks.harness import HOST

SLICE = 0.004  # s of work in one go
BATCH = 16  # connections opened, or messages sent, in one go
EVENTS = 256
LINGER_0 = struct.pack("ii", 1, 0)  # closing resets: no port stays behind in TIME_WAIT
IP_BIND_ADDRESS_NO_PORT = 24
WATCHED = select.EPOLLIN | select.EPOLLRDHUP
GONE = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Peer:
    """One hostile connection."""

    __slots__ = ("attack", "connected", "rest", "sent", "socket")

    def __init__(self, attack: "Attack", connection: socket.socket) -> None:
        self.attack = attack
        self.socket = connection
        self.connected = False
        self.sent = 0  # bytes or messages, as the attack likes
        self.rest = b""  # of what the kernel did not take


class Attack(ABC):
    """What one kind of hostile client does; the swarm keeps `most` of them connected while `on`.

    pace: connections opened a second at most; 0: as many as the share of the core allows. addresses: how many it
    comes from.
    """

    name: str
    receive_buffer = 0  # bytes; 0: the system's
    send_buffer = 0
    watched = WATCHED

    def __init__(self, swarm: "Swarm", port: int, most: int, pace: float, addresses: int) -> None:
        self.swarm = swarm
        self.port = port
        self.most = most
        self.pace = pace
        self.addresses = addresses
        self.on = False
        self.open = 0
        self.opened = 0
        self.lost = 0  # closed by the server, or never accepted
        self.late = 0.0  # s that something was done too late, at worst since the last look
        self._allowed = 0.0  # connections, by the pace
        self._looked = perf_counter()
        self._network = 10 + len(swarm.attacks)

    @abstractmethod
    def connected(self, peer: Peer) -> None:
        """The connection is made."""

    def readable(self, peer: Peer) -> None:
        """The server said something, or left."""
        self.read(peer)

    def closed(self, peer: Peer) -> None:  # noqa: B027
        """The connection is closed, on whichever side."""

    def read(self, peer: Peer) -> bytes:
        """What the server said; if it left, b"", and the connection is closed."""
        data = b""
        try:
            data = peer.socket.recv(65_536)
        except BlockingIOError:
            return data
        except OSError:
            pass
        if not data:
            self.swarm.close(peer, lost=True)
        return data

    def work(self, now: float) -> bool:
        """Opens a few connections, if some are missing; whether it had anything to do."""
        wanted = min(self.most - self.open, BATCH) if self.on else 0
        if self.pace:
            self._allowed = min(self._allowed + self.pace * (now - self._looked), BATCH)
            self._looked = now
            wanted = min(wanted, int(self._allowed))
            self._allowed -= max(0, wanted)
        for _ in range(wanted):
            self.swarm.open(self)
        return wanted > 0

    def address(self) -> str:
        """Where the next connection comes from."""
        number = self.opened % self.addresses
        return f"127.{self._network}.{number // 250}.{number % 250 + 1}"

    def send(self, peer: Peer, data: bytes) -> None:
        """Sends `data` after what is left of before; what the kernel does not take waits in `rest`."""
        data = peer.rest + data
        try:
            peer.rest = data[peer.socket.send(data) :]
        except BlockingIOError:
            peer.rest = data
        except OSError:
            self.swarm.close(peer, lost=True)


class Periodic(Attack):
    """Sends again and again: `again` is called for each connection every `period` seconds."""

    period: float

    def __init__(self, swarm: "Swarm", port: int, most: int, pace: float, addresses: int) -> None:
        super().__init__(swarm, port, most, pace, addresses)
        self._due: deque[tuple[float, Peer]] = deque()

    @abstractmethod
    def again(self, peer: Peer) -> None: ...

    def connected(self, peer: Peer) -> None:
        self._due.append((perf_counter() + self.period, peer))

    def work(self, now: float) -> bool:
        busy = super().work(now)
        for _ in range(BATCH):
            if not self._due or self._due[0][0] > now:
                return busy
            due, peer = self._due.popleft()
            if peer.socket.fileno() >= 0:
                self.late = max(self.late, now - due)
                self.again(peer)
                self._due.append((now + self.period, peer))
        return True


class Swarm:
    """All attacks together."""

    def __init__(self) -> None:
        self.attacks: list[Attack] = []
        self._poll = select.epoll()
        self._peers: dict[int, Peer] = {}

    async def run(self, share: float) -> None:
        """Works, with pauses, so that it takes `share` of a core."""
        while True:
            began, before = perf_counter(), process_time()
            while perf_counter() - began < SLICE and self._turn():
                pass
            await asyncio.sleep(max(0.001, (process_time() - before) * (1 / share - 1)))

    def _turn(self) -> bool:
        events = self._poll.poll(0, EVENTS)
        for number, what in events:
            peer = self._peers.get(number)
            if peer is None:
                continue
            if not peer.connected and what & select.EPOLLOUT and not what & GONE:
                peer.connected = True
                self._poll.modify(number, peer.attack.watched)
                peer.attack.connected(peer)
            elif what & select.EPOLLIN:
                peer.attack.readable(peer)
            elif what & GONE:
                self.close(peer, lost=True)
        now = perf_counter()
        busy = [attack.work(now) for attack in self.attacks]
        return bool(events) or any(busy)

    def open(self, attack: Attack) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        if attack.receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, attack.receive_buffer)
        if attack.send_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, attack.send_buffer)
        connection.bind((attack.address(), 0))
        attack.opened += 1
        error = connection.connect_ex((HOST, attack.port))
        if error not in (0, EINPROGRESS):
            attack.lost += 1
            connection.close()
            return
        attack.open += 1
        self._peers[connection.fileno()] = Peer(attack, connection)
        self._poll.register(connection.fileno(), select.EPOLLOUT | WATCHED)

    def watch(self, peer: Peer, events: int) -> None:
        """Let only these events of the connection be seen from now on."""
        self._poll.modify(peer.socket.fileno(), events)

    def close(self, peer: Peer, lost: bool) -> None:
        """Ends a connection with a reset; `lost`: it was the server that ended it."""
        number = peer.socket.fileno()
        if number < 0:
            return
        del self._peers[number]
        peer.socket.close()
        peer.attack.open -= 1
        peer.attack.lost += lost
        peer.attack.closed(peer)

    def close_all(self) -> None:
        for peer in list(self._peers.values()):
            self.close(peer, lost=False)
