"""Promises: LOST tells of totals, so each loss is told to the handlers once; only a server sends it, and if agreed."""

from gatelink.errors import CloseCode
from gatelink.wire.control import Features, Lost
from tests.unit.session.support import Desk

BOTH = Features.PING | Features.RESUME


def client(features: int = BOTH | Features.LOSSES) -> Desk:
    return Desk(features, accepting=False)


async def test_totals_that_are_told_again_are_told_to_handlers_once() -> None:
    desk = client()
    desk.hear(Lost(12, 3, 1))
    desk.hear(Lost(12, 3, 1), Lost(13, 0, 0))
    desk.hear(Lost(12, 5, 1), Lost(13, 0, 2))
    assert desk.handlers.received == ["opened", Lost(12, 3, 1), Lost(12, 2, 0), Lost(13, 0, 2)]


async def test_totals_that_shrink_are_a_protocol_error() -> None:
    for lower in (Lost(12, 2, 1), Lost(12, 3, 0)):
        desk = client()
        desk.hear(Lost(12, 3, 1))
        desk.hear(lower)
        assert desk.it.close_code is CloseCode.PROTOCOL_ERROR


async def test_a_client_may_not_send_it_and_a_server_only_if_that_was_agreed() -> None:
    for desk in (Desk(BOTH | Features.LOSSES), client(BOTH)):
        desk.hear(Lost(12, 3, 1))
        assert desk.it.close_code is CloseCode.PROTOCOL_ERROR
        assert not any(isinstance(each, Lost) for each in desk.handlers.received)
