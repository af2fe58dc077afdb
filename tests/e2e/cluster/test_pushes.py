"""What a service sends to players: in one order with all else on the link, and an envelope for each turn."""

import asyncio

import pytest

from gatelink import Full, SessionClosed
from gatelink.cluster.links import PACK_BYTES, Link
from gatelink.cluster.player import Player
from gatelink.wire import envelope
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import CATALOG, Ask, Say, gateway_and_lobby, player
from tests.e2e.support import until


def pushes(link: Link) -> list[tuple[int, list[bytes]]]:
    """The PushFrames that stand in a link: whose, and what is in them."""
    found: list[tuple[int, list[bytes]]] = []
    for frame in link.session.outbox.frames():
        if int.from_bytes(frame[4:6], "little") == envelope.PUSH_FRAME:
            (sid,), _, _, frames = envelope.open_push_frames(frame[6:], 1 << 20)
            found.append((sid, list(frames)))
    return found


def held(player: Player) -> Link:
    """The player's link, which sends nothing from now on."""
    stream = player.link.session._stream
    assert stream is not None
    stream.writable = False
    return player.link


def let_go(link: Link) -> None:
    stream = link.session._stream
    assert stream is not None
    stream.writable = True
    link.session.flush()


async def test_what_a_player_is_sent_in_one_turn_crosses_the_link_in_one_envelope() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as a, player(gateway, 8) as b:
        await until(lambda: len(lobby.players) == 2)
        one, two = lobby.player(7), lobby.player(8)
        await until(lambda: not one.link.session.outbox.held_bytes, "all is acknowledged")
        link = held(one)
        for n in range(10):
            one.send(Say(n))
            two.send(Say(n))
        await asyncio.sleep(0)
        one.send(Say(10))
        await asyncio.sleep(0)
        assert [(sid, len(frames)) for sid, frames in pushes(link)] == [(one.sid, 10), (two.sid, 10), (one.sid, 1)]
        let_go(link)
        await until(lambda: a.heard == list(range(11)) and b.heard == list(range(10)))


async def test_nothing_that_sends_to_a_player_writes_into_what_all_players_share() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as a, player(gateway, 8) as b:
        await until(lambda: len(lobby.players) == 2)
        one = lobby.player(7)
        kind, body = CATALOG.encode(Say(4))
        one.send(Say(0))
        one.send(Say(1), key=1)
        one.send_frame(encode_frame(kind.id, CATALOG.encode(Say(2))[1]))
        one.send_frames([encode_frame(kind.id, CATALOG.encode(Say(3))[1]), encode_frame(kind.id, body)])
        one.send_raw(kind.id, CATALOG.encode(Say(5))[1])
        await until(lambda: a.heard == [0, 1, 2, 3, 4, 5])
        assert not b.heard


async def test_answers_to_what_one_read_brought_leave_with_that_read() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        link = lobby.player(7).link
        sid = lobby.player(7).sid
        kind = CATALOG.of_type(Ask)
        asked = envelope.client_frames(sid, [(kind.id, 0, kind.encode(Ask(n))) for n in range(5)])
        held(lobby.player(7))
        link.forward([(envelope.CLIENT_FRAME, 0, asked[6:])])
        assert [len(frames) for whose, frames in pushes(link) if whose == sid] == [5]
        let_go(link)
        await until(lambda: client.heard == list(range(5)))


async def test_nothing_on_a_link_overtakes_what_a_player_was_sent_before() -> None:
    """Sends, broadcasts to all and to a group, keyed sends, a push to a list, and the end."""
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        one = lobby.player(7)
        one.join("red")
        one.send(Say(1))
        lobby.broadcast(Say(2))
        one.send(Say(3))
        lobby.broadcast_to("red", Say(4))
        one.send(Say(5))
        one.send(Say(6), key=9)
        one.send(Say(7))
        lobby.players.broadcast(Say(8))
        one.send(Say(9))
        one.send(Say(10), full=Full.DROP_NEWEST)
        one.send(Say(11))
        one.kick("enough")
        await client.session.wait_closed()
        assert client.heard == list(range(1, 12))


async def test_a_link_is_flushed_once_a_turn_however_often_events_come_between_what_players_are_sent() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        one = lobby.player(7)
        for n in range(500):
            one.send(Say(n))
            one.join("red") if n % 2 else one.leave("red")
        assert one.link.session.context._flush_scheduled.count(one.link) == 1
        await until(lambda: client.heard == list(range(500)))


async def test_what_was_sent_to_a_player_before_it_was_closed_is_delivered() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        one = lobby.player(7)
        one.send(Say(1))
        one.close()
        with pytest.raises(SessionClosed):
            one.send(Say(2))
        await client.session.wait_closed()
        assert client.heard == [1]


async def test_more_than_an_envelope_takes_is_spread_over_several() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        one = lobby.player(7)
        await until(lambda: not one.link.session.outbox.held_bytes, "all is acknowledged")
        link = held(one)
        text = "x" * 10_000
        for n in range(100):
            one.send(Say(n, text))
        await asyncio.sleep(0)
        sizes = [sum(map(len, frames)) for _, frames in pushes(link)]
        assert len(sizes) > 1 and max(sizes) < PACK_BYTES + 11_000 and sum(sizes) > 1_000_000
        let_go(link)
        await until(lambda: client.heard == list(range(100)))


async def test_a_drain_waits_for_what_was_sent_in_this_turn() -> None:
    async with gateway_and_lobby() as (_, gateway, lobby), player(gateway, 7) as client:
        await until(lambda: len(lobby.players) == 1)
        one = lobby.player(7)
        one.send(Say(1))
        await one.drain()
        assert not one.link.session.outbox.count
        await until(lambda: client.heard == [1])
