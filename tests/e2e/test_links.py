"""Sessions between servers over real sockets (docs/protocol.md, "Encryption", "Between servers"): which may enter, and
that nothing is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatelink import (
    LINK_LIMITS,
    CloseCode,
    ClusterKey,
    ConfigError,
    ConnectError,
    Handlers,
    Limits,
    Listen,
    LocalError,
    Server,
    ServerKey,
    Session,
    StaticTokens,
    connect,
)
from gatelink.handlers import CLOSED
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy, Reset, Split
from gatelink.wire.base import VERIFY_FAILED
from gatelink.wire.control import Close, Hello, Lost, Ping
from gatelink.wire.frames import SEALED, Frame, encode_frame
from gatelink.wire.handshake import Initiator
from tests.e2e.extension import BOTH, ExtendedClient
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    leave,
    make_certificate,
    neighbour,
    open_sockets,
    serving,
    token_of,
    until,
    verify_request,
)
from tests.e2e.talk import SOON
from tests.support import MS

CLUSTER_KEY = ClusterKey.generate()
KEY = ServerKey.generate()
ME, OTHER = 9, 5  # the ids of the server that accepts, and of the one that connects
TYPE = 3  # of the latter


class Table:
    """The messages that one side of a link gets; it sends every Echo back."""

    def __init__(self) -> None:
        self.notes: list[int] = []
        self.echoes: list[int] = []
        self.events: list[str] = []
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Note)(lambda session, message: self.notes.append(message.n))
        handlers.on(Blob)(lambda session, message: session.send(message))
        handlers.on_verified(lambda session: self.events.append(f"verified {session.uid}"))
        handlers.on_suspended(lambda session: self.events.append("suspended"))
        handlers.on_resumed(lambda session: self.events.append("resumed"))
        handlers.on_closed(lambda session: self.events.append(f"closed {session.close_code:d}"))

        @handlers.on(Echo)
        def echo(session: Session, message: Echo) -> None:
            self.echoes.append(message.n)
            if message.n > 0:
                session.send(Echo(-message.n))


@asynccontextmanager
async def inner_server(table: Table | None = None, **settings: Any) -> AsyncIterator[EchoServer]:
    """A server with a listener for clients and, behind it in `endpoints`, an inner one."""
    settings = {"id": ME, "cluster_key": CLUSTER_KEY, "keys": [KEY]} | settings
    inner = Listen(endpoint=TCP, inner=True, handlers=(table or Table()).handlers)
    async with serving(TCP, inner, **settings) as server:
        yield server


async def dial(server: EchoServer, table: Table | None = None, at: object = None, **how: Any) -> Session:
    settings: dict[str, Any] = {
        "uid": OTHER,
        "source": TYPE,
        "cluster_key": CLUSTER_KEY,
        "peer_id": ME,
        "resume": True,
        "reconnect": SOON,
        "handlers": (table or Table()).handlers,
        "catalog": CATALOG,
    }
    session = await connect(str(at or server.endpoints[1]), **settings | how)
    assert session is not None and session.extension is not None
    return session


def link_of(server: Server, id: int = OTHER) -> Session:
    session = server.links.get(id)
    assert session is not None and session.extension is not None
    return session


class RawServer(ExtendedClient):
    """A server of the cluster that sends what it is told."""

    @classmethod
    async def called(
        cls, server: EchoServer, key: ClusterKey = CLUSTER_KEY, id: int = OTHER, to: int = ME
    ) -> "RawServer":
        """Through HANDSHAKE."""
        client = await cls.open(server.endpoints[1])
        await client.shake_hands(Initiator(key, Hello(features=BOTH), id, to))
        return client


# -- it is a session like any other --


async def test_both_sides_talk_through_the_same_session_api_and_know_each_other() -> None:
    here, there = Table(), Table()
    async with inner_server(here) as server:
        near = await dial(server, there)
        far = link_of(server)
        near.send(Echo(1))
        far.send(Echo(2))
        await until(lambda: here.echoes == [1, -2] and there.echoes == [2, -1])
        assert (near.uid, far.uid, far.source) == (ME, OTHER, TYPE)
        assert (here.events, there.events) == ([f"verified {OTHER}"], [f"verified {ME}"])
        assert len(server.sessions) == 0 and server.sessions.broadcast(Note(1)) == 0, "it is no client"
        await leave(near)
        await until(lambda: here.events[-1] == "closed 4000")
        assert len(server.links) == 0


async def test_a_link_carries_what_no_client_may_send_both_ways() -> None:
    body = bytes(range(256)) * 12_000  # 3 MiB
    here, there = Table(), Table()
    blobs: asyncio.Queue[bytes] = asyncio.Queue()
    del there.handlers.routes[CATALOG.find(Blob).id]
    there.handlers.on(Blob)(lambda session, message: blobs.put_nowait(bytes(message)))
    async with inner_server(here) as server:
        near = await dial(server, there)
        near.send(Blob(body))
        assert await blobs.get() == body
        near.abort()


async def test_what_was_sent_arrives_once_and_in_order_over_breaks_of_a_link() -> None:
    here, there = Table(), Table()
    script = [Split(97), *(Reset(connection=n, mean_bytes=4_000) for n in range(1, 9))]
    async with inner_server(here) as server, ChaosProxy(("127.0.0.1", server.endpoints[1].port), script) as proxy:
        at = f"tcp://127.0.0.1:{proxy.address[1]}"
        while True:
            try:
                near = await dial(server, there, at)
                break
            except ConnectError:
                assert proxy.connections < 8
        far = link_of(server)
        for n in range(2_000):
            near.send(Note(n))
            far.send(Note(n))
            if n % 50 == 0:
                await asyncio.sleep(MS)
        await until(lambda: len(here.notes) >= 2_000 and len(there.notes) >= 2_000)
        assert here.notes == there.notes == list(range(2_000))
        assert proxy.breaks >= 3 and link_of(server) is far
        assert here.events.count("suspended") == here.events.count("resumed")
        near.abort()


async def test_any_dispatcher_can_take_a_link_s_frames_and_ids_of_the_framework_with_them() -> None:
    class Links:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def opened(self, session: Session) -> None:
            self.heard.append(session.uid)

        def dispatch(self, session: Session, frames: list[Frame]) -> None:
            self.heard += frames

        def inject(self, session: Session, message: Any) -> None: ...

        def suspended(self, session: Session) -> None: ...

        def resumed(self, session: Session) -> None: ...

        def renewed(self, session: Session) -> None: ...

        def expiring(self, session: Session) -> None: ...

        def lost(self, session: Session, lost: Lost) -> None: ...

        def closed(self, session: Session, heard: bool) -> None:
            session.context.loop.call_soon(session.last_handler.ended)

    links = Links()
    inner = Listen(endpoint=TCP, inner=True, handlers=links)
    async with serving(TCP, inner, id=ME, cluster_key=CLUSTER_KEY) as server:
        near = await dial(server)
        near.send_raw(105, b"bind")
        near.send_raw(11_001, b"x")
        await until(lambda: len(links.heard) == 3)
        assert links.heard == [OTHER, (105, 0, b"bind"), (11_001, 0, b"x")]
        await until(lambda: near.outbox.held_bytes == 0, "they count, and are acknowledged")
        for id in (1, 2, 3, 4, 24):
            with pytest.raises(LocalError, match="framework"):
                near.send_raw(id, b"")
        near.abort()


async def test_a_client_session_sends_no_id_of_the_framework_s_either_side() -> None:
    async with inner_server() as server:
        client = await connect(str(server.endpoints[0]), uid=7, token=token_of(7).decode(), catalog=CATALOG)
        for session in (client, server.session(7)):
            for id in (1, 2, 3, 4, 24, 100, 109, 199):
                with pytest.raises(LocalError, match=f"message {id} "):
                    session.send_raw(id, b"")
            for base in (1, 4, 24):
                with pytest.raises(LocalError, match="framework"):
                    session.send(CATALOG.by_id[base].decode(bytes(11)) if base == 1 else CATALOG.by_id[base].type())
        await leave(client)


async def test_links_have_limits_of_their_own() -> None:
    assert LINK_LIMITS.max_frame == 4 * 1_048_576 and LINK_LIMITS.window_bytes > Limits().window_bytes
    async with inner_server(limits=Limits(max_connections=1, max_per_address=1, exempt=("10.0.0.0/8",))) as server:
        client = await RawClient.verified(server, 7)
        near = await dial(server)
        assert near.context.limits == LINK_LIMITS and link_of(server).context.limits == LINK_LIMITS
        assert server.stats.refused == {}, "a crowd of players keeps no server out"
        near.abort()
        await client.close()


# -- the servers that get a link --


async def refused(server: EchoServer, near: RawClient, *why: str) -> None:
    """The server closes without a word, and has counted why."""
    assert await near.rest() == []
    await until(lambda: set(why) <= set(server.stats.refused))
    assert len(server.links) == 0
    await near.close()


async def test_a_client_listener_takes_no_server_and_an_inner_one_no_client() -> None:
    async with inner_server() as server, neighbour(server):
        near = await RawClient.open(server.endpoints[0])
        near.send(Initiator(CLUSTER_KEY, Hello(features=BOTH), OTHER, ME).frame)
        await refused(server, near, "wrong-first-message")
        for first in (
            verify_request(7),
            verify_request(OTHER, source=TYPE),
            Initiator(KEY.public, Hello()).frame,
            b"\x0b\x00\x00\x80\x01\x01" + bytes(9),  # HELLO, plain
        ):
            near = await RawClient.open(server.endpoints[1])
            near.send(first)
            await refused(server, near, "wrong-first-message")


@pytest.mark.parametrize(
    "key, id, to",
    [
        (ClusterKey.generate(), OTHER, ME),
        (CLUSTER_KEY, OTHER, ME + 1),
        (CLUSTER_KEY, ME, ME),
        (CLUSTER_KEY, 0, ME),
        (CLUSTER_KEY, OTHER, 0),
    ],
    ids=["another key", "to another server", "from itself", "from a client", "to a client"],
)
async def test_a_handshake_that_is_not_for_this_server_closes_without_a_word(key: ClusterKey, id: int, to: int) -> None:
    async with inner_server() as server:
        near = await RawClient.open(server.endpoints[1])
        near.send(Initiator(key, Hello(features=BOTH), id, to).frame)
        await refused(server, near, "wrong-first-message")


async def test_a_recorded_handshake_that_is_repeated_gets_no_further() -> None:
    """Without the cluster key its answer can't be read, so nothing can be said after it."""
    recorded = Initiator(CLUSTER_KEY, Hello(features=BOTH), OTHER, ME).frame
    async with inner_server() as server, closing(RawClient.open(server.endpoints[1])) as near:
        near.send(recorded)
        assert (await near.frame())[0] == 0
        near.send(verify_request(OTHER, b"", TYPE))
        seen = await near.rest_bytes()
        assert seen[3] == SEALED and len(seen) == 4 + int.from_bytes(seen[:3], "little"), "CLOSE, which it can't read"
        assert len(server.links) == 0 and server.stats.refused["wrong-first-message"] == 1


@pytest.mark.parametrize("id, source", [(OTHER, 0), (OTHER + 1, TYPE), (0, TYPE)], ids=["client", "another", "nobody"])
async def test_a_server_says_after_its_handshake_what_it_said_in_it(id: int, source: int) -> None:
    async with inner_server() as server:
        near = await RawServer.called(server)
        near.send(verify_request(id, b"", source))
        await until(lambda: server.stats.refused["wrong-first-message"] == 1)
        await near.rest()
        assert len(server.links) == 0
        await near.close()


async def test_a_server_that_the_registry_does_not_know_so_is_refused_and_can_come_again() -> None:
    known: dict[int, int] = {}
    async with inner_server() as server:
        server.peers = known.get
        for type in (None, TYPE + 1):
            if type is not None:
                known[OTHER] = type
            with pytest.raises(ConnectError) as refusal:
                await dial(server)
            assert refusal.value.code is CloseCode.VERIFY_FAILED
        known[OTHER] = TYPE
        near = await dial(server)
        assert link_of(server).source == TYPE
        near.abort()


async def test_a_refused_server_is_told_so() -> None:
    async with inner_server() as server:
        server.peers = lambda id: None
        near = await RawServer.called(server)
        near.send(verify_request(OTHER, b"", TYPE))
        assert await near.end() == [(VERIFY_FAILED, 0, b""), Close(CloseCode.VERIFY_FAILED, "")]
        await near.close()


async def test_silence_and_noise_at_an_inner_listener_end_as_at_any_other() -> None:
    async with inner_server(link_limits=Limits(verify_timeout=1.5, token_timeout=1.0)) as server:
        silent, shaken, large = (
            await RawClient.open(server.endpoints[1]),
            await RawServer.called(server),
            await RawServer.called(server),
        )
        large.send(encode_frame(1, bytes(1_050)))
        await until(lambda: server.stats.refused["frame-too-large"] == 1)
        await refused(server, silent, "verify-timeout")
        await shaken.rest()
        await until(lambda: server.stats.refused["verify-timeout"] == 2)
        for one in (shaken, large):
            await one.close()


async def test_connect_hangs_up_on_a_server_that_is_not_the_one_it_called() -> None:
    """It holds the cluster key, and has another id than it answers to in its handshake."""
    async with inner_server() as server:
        object.__setattr__(server._inner_frontend().logins.rules, "id", ME + 1)
        with pytest.raises(ConnectError, match=f"server {ME + 1} answered, not {ME}"):
            await dial(server)
        with pytest.raises(ConnectError):
            await dial(server, peer_id=ME + 1)


@pytest.mark.parametrize(
    "how",
    [{"token": "x"}, {"server_key": KEY.public}, {"slot": 1}, {"source": 0}, {"source": 256}, {"uid": 0}]
    + [{"peer_id": 0}, {"peer_id": OTHER}],
    ids=lambda how: "-".join(how),
)
async def test_connect_says_what_a_server_has_to_give(how: dict[str, Any]) -> None:
    async with inner_server() as server:
        with pytest.raises(ConfigError):
            await dial(server, **how)


@pytest.mark.parametrize(
    "listen, how, words",
    [
        (Listen(endpoint=TCP, inner=True), {}, "handlers"),
        (Listen(endpoint=TCP, inner=True, handlers=Handlers(CATALOG)), {"cluster_key": ()}, "cluster_key"),
        (Listen(endpoint=TCP, handlers=Handlers(CATALOG)), {}, "inner"),
        (Listen(endpoint=TCP), {"tokens": None}, "tokens"),
        (Listen(endpoint=TCP, resume_at="nowhere"), {}, "endpoint"),
    ],
)
async def test_a_listener_that_can_not_work_is_refused_at_the_start(
    listen: Listen, how: dict[str, Any], words: str
) -> None:
    before = open_sockets()
    settings: dict[str, Any] = {"tokens": StaticTokens(), "id": ME, "cluster_key": CLUSTER_KEY}
    with pytest.raises(ConfigError, match=words):
        await Server(listen, catalog=CATALOG, **settings | how).start()
    assert open_sockets() <= before


async def test_a_server_with_a_cluster_key_has_an_id_and_one_with_inner_listeners_alone_needs_no_tokens() -> None:
    with pytest.raises(ConfigError, match="id"):
        Server(TCP, tokens=StaticTokens(), cluster_key=CLUSTER_KEY)
    inner = Listen(endpoint=TCP, inner=True, handlers=Table().handlers)
    async with Server(inner, catalog=CATALOG, id=ME, cluster_key=CLUSTER_KEY) as server:
        assert len(server.endpoints) == 1 and len(server.links) == 0


async def test_an_inner_listener_may_be_within_tls(tmp_path: Any) -> None:
    certificate, private, context = make_certificate(tmp_path)
    table = Table()
    inner = Listen(
        endpoint="tls://127.0.0.1:0", certificate=certificate, key=private, inner=True, handlers=table.handlers
    )
    async with serving(TCP, inner, id=ME, cluster_key=CLUSTER_KEY) as server:
        near = await dial(server, tls=context)
        near.send(Note(1))
        await until(lambda: table.notes == [1])
        near.abort()


# -- rotation --


async def test_keys_are_rotated_without_a_moment_in_which_two_servers_can_not_connect() -> None:
    """All accept both; then all dial with the new one; then the old one goes."""
    old, new = ClusterKey.generate(), ClusterKey.generate()
    for accepted, dialled in (([old], old), ([old, new], old), ([new, old], new), ([new], new)):
        async with inner_server(cluster_key=accepted) as server:
            near = await dial(server, cluster_key=dialled)
            near.abort()
    async with inner_server(cluster_key=[new]) as server:
        with pytest.raises(ConnectError):
            await dial(server, cluster_key=old)


# -- resume --


async def test_a_link_s_ticket_is_worth_nothing_to_a_client_or_to_another_server() -> None:
    async with inner_server() as server:
        near = await RawServer.called(server)
        near.send(verify_request(OTHER, b"", TYPE))
        await near.frame()
        ticket: Any = await near.control()
        client = await ExtendedClient.extended(server, KEY.public)
        client.resume(ticket)
        assert await client.end() == [Close(CloseCode.RESUME_REFUSED, "")]
        other = await RawServer.called(server, id=OTHER + 1)
        other.resume(ticket)
        assert await other.end() == [Close(CloseCode.RESUME_REFUSED, "")]
        link = link_of(server)
        again = await RawServer.called(server)
        again.resume(ticket)
        assert await again.resumed(ticket) == 0
        assert link_of(server) is link and link.state is SessionState.OPEN
        for one in (near, client, other, again):
            await one.close()


async def test_a_player_s_ticket_is_worth_nothing_to_a_server() -> None:
    async with inner_server() as server:
        player = await ExtendedClient.logged_in(server, OTHER, KEY.public)
        near = await RawServer.called(server)
        near.resume(player.ticket)
        assert await near.end() == [Close(CloseCode.RESUME_REFUSED, "")]
        for one in (near, player):
            await one.close()


async def test_of_two_links_of_one_server_the_newer_wins() -> None:
    table = Table()
    async with inner_server(table) as server:
        older = await dial(server)
        newer = await dial(server)
        await older.wait_closed()
        assert older.close_code is CloseCode.REPLACED
        newer.send(Note(1))
        await until(lambda: table.notes == [1])
        assert len(server.links) == 1
        newer.abort()


async def test_a_link_whose_path_died_is_noticed_and_resumed_on_another() -> None:
    quick = Limits(heartbeat_interval=100 * MS, heartbeat_timeout=1_500 * MS, rate_timeout=200 * MS)
    here, there = Table(), Table()
    async with (
        inner_server(here, link_limits=quick) as server,
        ChaosProxy(("127.0.0.1", server.endpoints[1].port)) as proxy,
    ):
        near = await dial(server, there, f"tcp://127.0.0.1:{proxy.address[1]}", limits=quick)
        proxy.drop()
        near.send(Note(1))
        link_of(server).send(Note(2))
        proxy.restore()
        await until(lambda: here.notes == [1] and there.notes == [2])
        assert there.events[1:] == ["suspended", "resumed"]
        near.abort()


# -- the end --


async def close_when_the_server_does(client: RawClient) -> None:
    """Read until the server closes, then close too."""
    await client.rest()
    await client.close()


async def test_stop_ends_links_after_clients_and_leaves_nothing() -> None:
    before = open_sockets()
    here, there = Table(), Table()
    async with inner_server(here) as server:
        near = await dial(server, there, reconnect=None, resume=False)
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        del server.handlers.routes[CLOSED]

        @server.on_closed
        def gone(session: Session) -> None:
            link_of(server).send(Note(session.uid))

        await asyncio.gather(server.stop(), close_when_the_server_does(client))
        await near.wait_closed()
        assert there.notes == [7], "the end of a player was told before the link ended"
        assert near.close_code is CloseCode.GOING_AWAY
        assert here.events[-1] == "closed 4011" and not len(server.links._context.wheel)
    await until(lambda: open_sockets() <= before)


async def test_a_hostile_holder_of_the_cluster_key_ends_only_its_own_link() -> None:
    """One trust domain, and still no way to break the process: what the protocol forbids ends the link."""
    async with inner_server() as server, neighbour(server):
        near = await RawServer.called(server)
        near.send(verify_request(OTHER, b"", TYPE))
        await near.frame()
        await near.control()
        near.send(frame_of(Note(1)), encode_frame(105, b"?"))
        end = await near.end()
        assert Close(CloseCode.PROTOCOL_ERROR, "") in end
        near2 = await RawServer.called(server)
        near2.say(Ping(1, 0))
        await until(lambda: server.stats.refused["wrong-first-message"] == 1)
        for one in (near, near2):
            await one.close()
