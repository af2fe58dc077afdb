"""Servers that ask their clients to go, and where these go (docs/protocol.md, GOAWAY, TICKET)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gatelink import Backoff, CloseCode, ClusterKey, ConfigError, Limits, Listen, ServerKey, Session
from gatelink.session.states import SessionState
from gatelink.testing import ChaosProxy
from gatelink.wire.control import Close, GoAway, control_frame
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import TCP, EchoServer, Note, RawClient, closing, make_certificate, open_sockets, serving, until
from tests.e2e.talk import KEY, SOON, Talk
from tests.e2e.test_links import close_when_the_server_does
from tests.support import MS

SLOWLY = Backoff(first=30.0, most=30.0)  # too slow for any test: a client that is back sooner was told to


@asynccontextmanager
async def two(*listen: str | Listen, **settings: Any) -> AsyncIterator[tuple[EchoServer, EchoServer]]:
    """Two servers of one key."""
    async with serving(*listen, keys=[KEY], **settings) as one, serving(*listen, keys=[KEY], **settings) as other:
        yield one, other


def where(proxy: ChaosProxy, scheme: str = "tcp") -> str:
    return f"{scheme}://127.0.0.1:{proxy.address[1]}"


# -- GOAWAY --


async def test_a_client_that_is_asked_to_go_resumes_where_it_was_and_loses_nothing() -> None:
    async with serving(keys=[KEY]) as server:
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public, reconnect=SLOWLY)
        talk.say(5)
        assert talk.other.go_away(100 * MS)
        talk.say(5)
        await until(lambda: talk.events == ["suspended", "resumed"])
        talk.say(5)
        await talk.end()
        talk.session.abort()


async def test_it_resumes_at_the_address_that_it_was_given_and_stays_there() -> None:
    async with (
        serving(keys=[KEY]) as server,
        ChaosProxy(("127.0.0.1", server.endpoint.port)) as first,
        ChaosProxy(("127.0.0.1", server.endpoint.port)) as second,
    ):
        talk = await Talk(server).begin(where(first), server_key=KEY.public)
        talk.other.go_away(50 * MS, where(second))
        talk.say(20)
        await until(lambda: talk.events == ["suspended", "resumed"])
        assert (first.connections, second.connections) == (1, 1)
        second.cut_all()
        talk.say(20)
        await until(lambda: talk.events == ["suspended", "resumed"] * 2)
        assert (first.connections, second.connections) == (1, 2)
        await talk.end()
        talk.session.abort()


async def test_a_client_without_resume_logs_in_where_it_was_sent() -> None:
    async with two() as (one, other):
        talk = await Talk(one).begin(one.endpoint, server_key=KEY.public, resume=False, reconnect=SLOWLY)
        talk.other.go_away(50 * MS, str(other.endpoint))
        await until(lambda: other.sessions.get(7) is not None)
        await until(lambda: talk.events == ["suspended", "resumed"] and one.sessions.get(7) is None)
        talk.session.send(Note(1))
        await until(lambda: other.notes == [(7, 1)])
        talk.session.abort()


async def test_a_client_with_resume_is_told_when_its_session_is_not_where_it_was_sent() -> None:
    """Exactly once or a clear end: a new session in the place of the old one would be neither."""
    async with two() as (one, other):
        talk = await Talk(one).begin(one.endpoint, server_key=KEY.public)
        talk.other.go_away(50 * MS, str(other.endpoint))
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert other.sessions.get(7) is None and other.stats.verified == 0


async def test_a_client_that_does_not_reconnect_ends_with_4011() -> None:
    async with serving(keys=[KEY]) as server:
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public, resume=False, reconnect=None)
        talk.other.go_away(50 * MS)
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.GOING_AWAY


async def test_a_base_client_can_not_be_asked() -> None:
    async with serving() as server, closing(RawClient.verified(server, 7)) as client:
        assert not server.session(7).go_away(0)
        await client.echo(1)


async def test_clients_leave_one_after_the_other_not_all_at_once() -> None:
    async with serving(keys=[KEY]) as server:
        left: list[float] = []
        loop = asyncio.get_running_loop()
        server.on_suspended(lambda session: left.append(loop.time()))
        talks = [await Talk(server, uid).begin(server.endpoint, server_key=KEY.public) for uid in range(1, 31)]
        for talk in talks:
            talk.other.go_away(1.5)
        await until(lambda: len(left) == 30 and all(talk.events == ["suspended", "resumed"] for talk in talks))
        assert max(left) - min(left) > 0.5, "they are spread over the time that they have"
        for talk in talks:
            talk.session.abort()


# -- to whom a client listens --


async def stays(talk: Talk, address: str) -> None:
    """The client is asked to go there, and comes back to where it was."""
    stream: Any = talk.session._stream
    other = stream.transport.get_extra_info("peername")
    assert talk.other.go_away(20 * MS, address)
    await until(lambda: talk.events[-1:] == ["resumed"])
    stream = talk.session._stream
    assert stream.transport.get_extra_info("peername") == other
    await talk.end()


@pytest.mark.parametrize(
    "address",
    ["nowhere", "unix:///tmp/gatelink-nobody.sock", "http://127.0.0.1:1", "tcp://127.0.0.1:99999", "\x1b[31m\udcff"],
)
async def test_an_address_that_is_none_is_not_followed(address: str) -> None:
    async with serving(keys=[KEY]) as server:
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public)
        await stays(talk, address)
        talk.session.abort()


async def test_no_client_is_led_from_tls_to_a_weaker_transport(tmp_path: Path) -> None:
    certificate, private, context = make_certificate(tmp_path)
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=private)
    async with serving(listen, TCP, keys=[KEY], resume_plain=True) as server:
        for how in ({}, {"server_key": KEY.public}):
            talk = await Talk(server).begin(server.endpoints[0], tls=context, **how)
            await stays(talk, str(server.endpoints[1]))
            talk.session.abort()
            await until(lambda: len(server.connections) == 0)
            server.session(7).close()


async def test_a_client_may_be_led_to_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private, context = make_certificate(tmp_path)
    monkeypatch.setattr(ssl, "create_default_context", lambda *_: context)  # what the system trusts
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=private)
    async with serving(TCP, keys=[KEY]) as server:
        monkeypatch.undo()
        server._listeners.clear()
        await server._open(listen)
        monkeypatch.setattr(ssl, "create_default_context", lambda *_: context)
        (tls,) = server.endpoints
        plain = server._clients.listeners[0].endpoint  # type: ignore[union-attr]
        talk = await Talk(server).begin(plain, server_key=KEY.public)
        talk.other.go_away(20 * MS, str(tls))
        await until(lambda: talk.events == ["suspended", "resumed"])
        stream: Any = talk.session._stream
        assert stream.transport.get_extra_info("ssl_object") is not None
        await talk.end()
        talk.session.abort()


async def test_only_a_server_with_the_same_key_is_followed_with_a_session() -> None:
    """An address leads a client that knows its server's key to nobody else."""
    async with serving(keys=[KEY]) as server, serving(keys=[ServerKey.generate()]) as stranger:
        backoff = Backoff(first=5 * MS, most=20 * MS, attempts=5)
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public, reconnect=backoff)
        talk.other.go_away(20 * MS, str(stranger.endpoint))
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.GOING_AWAY
        assert stranger.stats.verified == 0 and stranger.stats.refused["wrong-first-message"] == 5


async def test_a_client_without_a_session_to_resume_goes_home_when_nobody_answers_there() -> None:
    async with serving(keys=[KEY]) as server:
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public, resume=False)
        talk.other.go_away(20 * MS, "tcp://127.0.0.1:1")
        await until(lambda: talk.events == ["suspended", "resumed"])
        assert server.stats.verified == 2
        talk.session.abort()


async def test_a_server_hears_no_goaway_from_its_client() -> None:
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client:
        client.say(GoAway(0))
        assert (await client.end())[-1] == Close(CloseCode.PROTOCOL_ERROR, "")


# -- TICKET --


async def test_a_client_resumes_where_its_ticket_says() -> None:
    """Behind a balancer that would lead it elsewhere, say."""
    async with ChaosProxy(("127.0.0.1", 1)) as straight:
        listen = Listen(endpoint=TCP, resume_at=where(straight))
        async with serving(listen, keys=[KEY]) as server:
            straight._target = ("127.0.0.1", server.endpoint.port)
            async with ChaosProxy(straight._target) as balancer:
                talk = await Talk(server).begin(where(balancer), server_key=KEY.public)
                assert talk.session.extension is not None and talk.session.ticket is not None
                assert talk.session.ticket.address == where(straight)
                talk.say(20)
                balancer.cut_all()
                await until(lambda: talk.events == ["suspended", "resumed"])
                assert (balancer.connections, straight.connections) == (1, 1)
                straight.cut_all()
                talk.say(20)
                await until(lambda: talk.events == ["suspended", "resumed"] * 2)
                assert (balancer.connections, straight.connections) == (1, 2)
                await talk.end()
                talk.session.abort()


# -- drain and stop --


async def test_drain_moves_clients_that_can_be_asked_and_leaves_the_rest_for_stop() -> None:
    before = open_sockets()
    async with two() as (one, other):
        base = await RawClient.verified(one, 1)
        talks = [
            await Talk(one, uid).begin(one.endpoint, server_key=KEY.public, resume=False, reconnect=SLOWLY)
            for uid in range(2, 12)
        ]
        draining = asyncio.create_task(one.drain(0.5, str(other.endpoint)))
        await until(lambda: len(other.sessions) == 10)
        assert not one.is_running and [session.uid for session in one.sessions] == [1]
        with pytest.raises(OSError):
            await RawClient.open(one.endpoint)
        await base.echo(1)
        await draining
        await base.echo(2)
        await asyncio.gather(one.stop(), close_when_the_server_does(base))
        assert all(talk.session.state is SessionState.OPEN for talk in talks)
        for talk in talks:
            talk.session.abort()
    await until(lambda: open_sockets() <= before)


async def test_drain_returns_as_soon_as_all_have_left() -> None:
    async with two() as (one, other):
        talk = await Talk(one).begin(one.endpoint, server_key=KEY.public, resume=False)
        draining = asyncio.create_task(one.drain(3_600))
        await until(lambda: not one.is_running)
        talk.other.go_away(0, str(other.endpoint))
        async with asyncio.timeout(10_000 * MS):
            await draining
        await until(lambda: talk.events == ["suspended", "resumed"])
        talk.session.abort()


async def test_drain_refuses_an_address_that_is_none() -> None:
    async with serving() as server:
        with pytest.raises(ConfigError):
            await server.drain(1, "nowhere")
        assert server.is_running


async def test_stop_asks_and_then_closes_in_the_same_breath() -> None:
    async with serving(keys=[KEY], limits=Limits(reconnect_within=2.5)) as server:
        clients = [
            await ExtendedClient.logged_in(server, 7, KEY.public),
            await ExtendedClient.logged_in(server, 8, None),
        ]
        await asyncio.gather(server.stop(), *(self_closing(client) for client in clients))


async def self_closing(client: ExtendedClient) -> None:
    end = [record for record in await client.end() if isinstance(record, GoAway | Close)]
    assert end == [GoAway(2_500), Close(CloseCode.GOING_AWAY, "the server stops")]
    await client.close()


async def test_the_clients_of_a_server_that_is_restarted_come_back_spread_over_a_time() -> None:
    limits = Limits(reconnect_within=1.0)
    async with serving(keys=[KEY], limits=limits) as server:
        at = str(server.endpoint)
        talks = [
            await Talk(server, uid).begin(at, server_key=KEY.public, resume=False, reconnect=SOON)
            for uid in range(1, 31)
        ]
        await server.stop()
        assert all(talk.session.extension is not None for talk in talks)
        times: list[float] = []
        async with serving(at, keys=[KEY]) as successor:

            @successor.on_verified
            def verified(session: Session) -> None:
                times.append(asyncio.get_running_loop().time())

            await until(lambda: len(times) == 30)
            assert max(times) - min(times) > 0.3
            for talk in talks:
                talk.session.abort()


async def test_a_link_is_asked_to_go_like_any_session() -> None:
    from tests.e2e import test_links

    table = test_links.Table()
    async with test_links.inner_server(cluster_key=ClusterKey.generate()) as server:
        near = await test_links.dial(server, table, cluster_key=server.cluster_keys[0])
        assert test_links.link_of(server).go_away(50 * MS)
        await until(lambda: table.events[1:] == ["suspended", "resumed"])
        near.abort()


def test_a_goaway_is_small() -> None:
    assert len(control_frame(GoAway(1_000))) == 11
