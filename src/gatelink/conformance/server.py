"""The scripted server: it listens, and answers a login or a RESUME as it should, or as a step wants."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from gatelink.conformance.connection import ScriptedConnection
from gatelink.conformance.judge import Judge, Unmet
from gatelink.conformance.player import Player
from gatelink.conformance.session import RESUME_WINDOW, ScriptedSession
from gatelink.errors import PeerError, counted
from gatelink.wire.base import VERIFY_REQUEST, VERIFY_SUCCEEDED, ClientVerifyRequest, ClientVerifySucceeded
from gatelink.wire.control import Features, Handshake, Hello, Resume
from gatelink.wire.frames import CONTROL, encode_frame
from gatelink.wire.handshake import Responder
from gatelink.wire.keys import ServerKey
from gatelink.wire.messages import catalog
from gatelink.wire.resume import verify_resume

Transport = Literal["tcp", "ws"]

FEATURES = Features.RESUME | Features.PING | Features.REQUESTS | Features.RENEWAL | Features.LOSSES
"""What the scripted server has."""


MAX_DIALS = 10_000
"""Connections of one step; the largest has 2,000."""


class ScriptedServer:
    """The server of one step.

    transport: of its first address. key: with it, connections begin with a Noise handshake. players: those that may
    log in, by number.
    dials: connections so far. refuses: whether each new one is reset at once.
    on_welcome: called with each connection whose client was let in by `serve`.
    """

    def __init__(
        self, judge: Judge, transport: Transport, key: ServerKey | None, players: Mapping[int, Player]
    ) -> None:
        self.transport = transport
        self.key = key
        self.dials = 0
        self.refuses = False
        self.on_welcome: Callable[[ScriptedConnection], None] = lambda connection: None
        self.waiting: deque[ScriptedConnection] = deque()  # connections that nothing has taken yet
        self._judge = judge
        self._players = players
        self._doors: list[asyncio.Server] = []
        self._connections: list[ScriptedConnection] = []
        self._serving: set[asyncio.Task[None]] | None = None

    async def listen(self, transport: Transport | None = None) -> tuple[str, int]:
        """Host and port of one more listener."""
        is_web = (transport or self.transport) == "ws"

        def made() -> ScriptedConnection:
            connection = ScriptedConnection(self._judge, len(self._connections) + 1, is_web, self._connected)
            self._connections.append(connection)
            return connection

        door = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0, backlog=1_024)
        self._doors.append(door)
        host, port = door.sockets[0].getsockname()
        return host, port

    async def open_door(self, transport: Transport | None = None) -> str:
        """The address of one more listener, without the proxy. Its connections come to `accept`, too."""
        host, port = await self.listen(transport)
        return f"{transport or self.transport}://{host}:{port}"

    def close(self) -> None:
        """Listen no more, and reset what is open."""
        for task in self._serving or ():
            task.cancel()
        for door in self._doors:
            door.close()
        for connection in self._connections:
            if not connection.is_over:
                connection.abort()

    def _connected(self, connection: ScriptedConnection) -> None:
        self.dials += 1
        if self.dials > MAX_DIALS:
            self._judge.give_up(f"the client floods: more than {MAX_DIALS} connections in a step")
            connection.abort()
        elif self.refuses:
            connection.abort()
        elif self._serving is None:
            self.waiting.append(connection)
        else:
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def serve(self) -> None:
        """From now on let every client in, and resume every session, without further ado."""
        if self._serving is None:
            self._serving = set()
        waiting, self.waiting = self.waiting, deque()
        for connection in waiting:
            self._connected(connection)

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            await self.welcome(connection)
            self.on_welcome(connection)
        except Unmet as error:
            if not connection.is_over:  # else the path broke
                self._judge.blame(str(error))

    async def accept(self, what: str) -> ScriptedConnection:
        """The next connection of the client, which comes because of `what`."""
        await self._judge.until(lambda: self.waiting, f"a connection {what}")
        return self.waiting.popleft()

    async def greet(self, connection: ScriptedConnection) -> None:
        """Take the client's HELLO or HANDSHAKE, and answer it."""
        due = "HANDSHAKE" if self.key is not None else "HELLO"
        record = await connection.control(f"{due} as the first record")
        match record:
            case Hello() as hello if self.key is None:
                connection.hello, connection.agreed = hello, hello.answer(FEATURES)
                connection.say(connection.agreed)
            case Handshake() as handshake if self.key is not None:
                try:
                    sealing = Responder([self.key]).respond(handshake, FEATURES)
                except PeerError as error:
                    raise Unmet(f"the client's HANDSHAKE: {error}") from None
                connection.hello, connection.agreed = sealing.hello, sealing.agreed
                connection.write(sealing.answer)
                connection.secure(sealing.stream, sealing.handshake_hash)
            case _:
                raise Unmet(f"{due} as the first record: {type(record).__name__} came instead")
        lacks = (Features.RESUME | Features.PING) & ~connection.hello.features
        if lacks:
            raise Unmet(f"HELLO without {lacks!r}")

    async def read_login(self, connection: ScriptedConnection) -> ClientVerifyRequest:
        """The client's ClientVertifyReq."""
        id, flags, body = await connection.frame("ClientVertifyReq")
        if id != VERIFY_REQUEST or flags:
            raise Unmet(f"ClientVertifyReq was due, and message {id} with flags {flags:#04x} came")
        try:
            request: ClientVerifyRequest = catalog.by_id[VERIFY_REQUEST].decode(body)
        except PeerError as error:
            raise Unmet(f"ClientVertifyReq: {error}") from None
        return request

    def let_in(
        self,
        connection: ScriptedConnection,
        request: ClientVerifyRequest,
        address: str = "",
        window: int = RESUME_WINDOW,
    ) -> Player:
        """Answer a login with success and a ticket. address, window: of the ticket."""
        player = next((player for player in self._players.values() if player.uid == request.uid), None)
        if player is None:
            raise Unmet(f"the login is for uid {request.uid}; uids are {[each.uid for each in self._players.values()]}")
        before = player.session
        if before is not None and not before.is_gone:
            raise Unmet(f"uid {request.uid} logs in again; it has a ticket")
        if request.source:
            raise Unmet(f"the login's source is {request.source}; a client's is 0")
        session = ScriptedSession(self._judge, connection, request, address, window)
        if before is not None:  # the players' counts go on
            session.count_due, session.counted = player.sent, player.delivered
        player.session = session
        connection.write(verified(request.uid))
        if session.ticket is not None:
            connection.say(session.ticket)
        session.attach(connection)
        return player

    async def read_resume(self, connection: ScriptedConnection) -> tuple[Player, Resume]:
        """The client's RESUME, whose proof, attempt and count are right; its attempt is stored."""
        record = await connection.control("RESUME")
        if not isinstance(record, Resume):
            raise Unmet(f"RESUME was due, and {type(record).__name__} came")
        return self._check(connection, record), record

    def _check(self, connection: ScriptedConnection, record: Resume) -> Player:
        for player in self._players.values():
            session = player.session
            if session is not None and session.ticket is not None and session.ticket.session_id == record.session_id:
                break
        else:
            raise Unmet("RESUME of a session that is not there")
        if not verify_resume(record, session.ticket.resume_key, connection.handshake_hash):
            raise Unmet("RESUME with a wrong mac")
        if record.attempt <= session.attempt:
            raise Unmet(f"RESUME with attempt {record.attempt}, after {session.attempt}")
        session.attempt = record.attempt
        said = counted(record.received, "message")
        if record.received > session.written:
            raise Unmet(f"RESUME says that {said} came, and {session.written} were sent whole")
        if record.received < session.acknowledged:
            raise Unmet(f"RESUME says that {said} came, after {session.acknowledged}")
        return player

    def go_on(self, connection: ScriptedConnection, player: Player, record: Resume) -> None:
        """Answer RESUME, and send what the client lacks."""
        session = player.scripted
        if connection.frames:
            self._judge.blame("the client sent something between RESUME and RESUMED")
        if session.connection is not None and not session.connection.is_over:
            session.connection.abort()
        connection.write(session.resumed_frame(connection, record))
        session.attach(connection, record.received)

    async def welcome(self, connection: ScriptedConnection) -> Player:
        """Let the client of a new connection in: by its login, or by RESUME."""
        await self.greet(connection)
        await self._judge.until(lambda: connection.frames or connection.is_over, "ClientVertifyReq or RESUME")
        if connection.frames and connection.frames[0][1] == CONTROL:
            player, record = await self.read_resume(connection)
            self.go_on(connection, player, record)
            return player
        return self.let_in(connection, await self.read_login(connection))


def verified(uid: int) -> bytes:
    """The frame of ClientVertifySucceedRet."""
    return encode_frame(VERIFY_SUCCEEDED, catalog.by_id[VERIFY_SUCCEEDED].encode(ClientVerifySucceeded(0, uid, 0, 0)))
