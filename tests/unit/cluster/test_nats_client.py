"""The private names of nats-py that `engines/nats_client.py` stands on: raise its version bound only with these."""

import inspect

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("_process_op_err", ["self", "e"]),
        ("_process_err", ["self", "err_msg"]),
        ("_process_pong", ["self"]),
        ("_send_command", ["self", "cmd", "priority"]),
        ("_send_unsubscribe", ["self", "sid", "limit"]),
    ],
)
def test_methods_of_the_client_that_are_overridden_or_called(name: str, arguments: list[str]) -> None:
    method = getattr(Client, name)
    assert inspect.iscoroutinefunction(method)
    assert list(inspect.signature(method).parameters) == arguments


def test_attributes_of_the_client_that_are_read_or_set() -> None:
    client = Client()
    assert client._pongs == []
    assert client._pending == [] and client._pending_data_size == 0
    assert client._transport is None and client._server_info == {}
    assert client._reading_task is client._ping_interval_task is client._flusher_task is None
    assert TcpTransport()._io_writer is None  # type: ignore[no-untyped-call]


def test_a_lost_connection_reaches_the_methods_that_are_overridden() -> None:
    """The read loop and the parser call them; a new name there would leave ours without a caller."""
    assert "self._process_op_err(" in inspect.getsource(Client._read_loop)
    from nats.protocol import parser

    assert "nc._process_err(" in inspect.getsource(parser)
    assert "nc._process_pong(" in inspect.getsource(parser)


def test_a_subscription_has_the_number_that_the_server_knows() -> None:
    client = Client()
    assert Subscription(client, id=7, subject="a")._id == 7
    assert client._subs == {} and list(inspect.signature(Subscription._stop_processing).parameters) == ["self"]
