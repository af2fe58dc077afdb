"""Promises: a client whose server is gone hears of it soon, and with a code that says so."""

from typing import Any

import pytest

from gatelink import CloseCode, Limits
from gatelink.session.states import SessionState
from tests.e2e.support import TCP, serving, until
from tests.e2e.talk import KEY, Talk, talking
from tests.support import MS


async def test_a_server_that_is_gone_for_good_holds_no_client_for_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.net.dialer.GONE_SECONDS", (50 * MS, 100 * MS))
    async with serving(TCP, keys=[KEY]) as server:
        talk = await Talk(server).begin(server.endpoint, server_key=KEY.public)
        assert talk.session.ticket is not None and talk.session.ticket.window == 120
        await server.stop(0)
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert talk.session.close_reason == "the server that had the session is gone"
        assert talk.events == ["suspended", "closed 4012"]


async def test_a_server_that_refuses_for_a_while_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may be busy, or an address that is reached through a proxy be refused there."""
    monkeypatch.setattr("gatelink.net.dialer.GONE_SECONDS", (1e6, 1e6))
    async with talking() as (talk, proxy):
        proxy.refuse(300 * MS)
        proxy.cut_all()
        await until(lambda: talk.session.state is SessionState.DETACHED)
        talk.say(5)
        await talk.all_heard()
        assert talk.events == ["suspended", "resumed"]


async def test_a_server_that_can_t_be_reached_for_the_window_ends_the_session_with_4012_and_not_4000() -> None:
    async with talking(limits=Limits(resume_window=1)) as (talk, proxy):
        proxy.drop()
        stream: Any = talk.session._stream
        stream.transport.abort()
        await talk.session.wait_closed()
        assert talk.session.close_code is CloseCode.RESUME_REFUSED
        assert talk.events == ["suspended", "closed 4012"]
