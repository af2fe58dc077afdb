"""The same over asyncio's own loop: nothing needs uvloop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gatelink import CloseCode, Limits, Listen, connect
from gatelink.config import LOOPBACK
from tests.e2e import test_client, test_client_reconnects, test_listeners, test_login, test_sessions, test_stop
from tests.e2e.support import (
    CATALOG,
    TCP,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    leave,
    make_certificate,
    token_of,
)
from tests.support import run_watched

Test = Callable[[], Coroutine[Any, Any, None]]


async def echo_over_everything(tmp_path: Path) -> None:
    certificate, key, context = make_certificate(tmp_path)
    tls = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=key)
    async with EchoServer(TCP, f"unix://{tmp_path}/gate.sock", tls) as server:
        for uid, endpoint in enumerate(server.endpoints, 1):
            client = await RawClient.verified(endpoint, uid, context if endpoint.scheme == "tls" else None)
            burst = [Echo(n, "x" * (n % 700)) for n in range(2_000)]
            client.send(*map(frame_of, burst))
            assert [await client.message() for _ in burst] == burst
            await client.close()
            session = await connect(
                str(endpoint),
                uid=uid,
                token=token_of(uid).decode(),
                catalog=CATALOG,
                tls=context if endpoint.scheme == "tls" else None,
            )
            session.send(Note(1))
            await session.drain()
            await leave(session)
        await server.stop()
    assert [uid for uid, _ in server.notes] == [1, 2, 3]
    assert {code for _, code in server.ended} == {CloseCode.NORMAL}


def test_echo_over_every_kind_of_stream(tmp_path: Path) -> None:
    run_watched(echo_over_everything(tmp_path), asyncio.new_event_loop)


@pytest.mark.parametrize(
    "test",
    [
        test_client.test_an_address_where_nothing_listens_is_named_with_the_reason,
        test_client_reconnects.test_a_broken_session_is_suspended_then_resumed_and_what_was_sent_meanwhile_arrives_in_order,
        test_listeners.test_connections_over_the_servers_limit_are_refused_until_one_leaves,
        test_login.test_a_wrong_token_gets_the_failure_message_and_then_the_end,
        pytest.param(
            test_login.test_thousands_of_interleaved_logins_of_one_user_leave_one_session,
            marks=pytest.mark.open_files(3_000),
        ),
        test_sessions.test_close_delivers_queued_messages_even_to_a_client_that_still_sends,
        test_sessions.test_a_close_right_behind_a_reset_that_nobody_has_read_yet_ends_the_session,
        test_sessions.test_abort_ends_a_session_at_once_even_in_the_middle_of_a_burst,
        test_sessions.test_a_silent_peer_hears_heartbeats_and_then_ends,
        test_stop.test_stop_delivers_what_is_queued_and_closes_every_session_with_4011,
        test_stop.test_it_starts_again_on_the_same_port_with_nobody_in_it,
    ],
    ids=lambda test: test.__name__.removeprefix("test_"),
)
def test_on_plain_asyncio_the_same_is_promised_as_on_uvloop(test: Test) -> None:
    run_watched(test(), asyncio.new_event_loop)


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "proxied"])
def test_nothing_is_left_after_a_stop(scheme: str, tmp_path: Path) -> None:
    test = test_stop.test_nothing_is_left_whatever_state_its_connections_were_in(scheme, tmp_path)
    run_watched(test, asyncio.new_event_loop)


@pytest.mark.parametrize("source", ["203.0.113.9", "2001:db8::9"])
def test_the_proxy_header_gives_the_sessions_address(source: str) -> None:
    test = test_listeners.test_the_proxy_header_gives_the_sessions_address
    for pieces in ("whole", "header first", "bytes"):
        run_watched(test(source, pieces), asyncio.new_event_loop)


@pytest.mark.parametrize("scheme", ["tcp", "proxied", "tls"])
def test_the_accept_hook_hands_the_stream_over(scheme: str, tmp_path: Path) -> None:
    test = test_listeners.test_the_accept_hook_hands_the_stream_to_another_protocol
    run_watched(test(scheme, tmp_path), asyncio.new_event_loop)


def test_tls_handshakes_that_fail(tmp_path: Path) -> None:
    run_watched(test_listeners.test_what_is_not_tls_is_closed_and_counted(tmp_path), asyncio.new_event_loop)
    run_watched(
        test_listeners.test_silent_peers_of_a_tls_listener_count_and_end_at_the_deadline(tmp_path),
        asyncio.new_event_loop,
    )


def test_limits_and_networks_are_what_they_are() -> None:
    assert Limits().exempt == LOOPBACK
