"""Where the small HTTP server listens."""

import errno
import socket

import pytest

from gatelink.ops.http import listeners

V4 = socket.AF_INET


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def test_all_addresses_of_a_name_have_one_port() -> None:
    found = listeners([(V4, "127.0.0.1"), (V4, "127.0.0.2")], 0)
    (one, port), (two, same) = (each.getsockname() for each in found)
    assert (one, two) == ("127.0.0.1", "127.0.0.2") and port == same
    close(found)


@pytest.mark.parametrize("addresses", [["192.0.2.1", "127.0.0.1"], ["127.0.0.1", "192.0.2.1"]])
def test_an_address_that_this_machine_does_not_have_is_left_out(addresses: list[str]) -> None:
    found = listeners([(V4, address) for address in addresses], 0)
    assert [each.getsockname()[0] for each in found] == ["127.0.0.1"]
    close(found)


def test_a_name_without_an_address_of_this_machine_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        listeners([(V4, "192.0.2.1")], 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_port_that_is_taken_at_one_address_is_an_error_and_nothing_is_left_open() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            listeners([(V4, "127.0.0.1"), (V4, "127.0.0.2")], port)
        assert caught.value.errno == errno.EADDRINUSE
        socket.create_server(("127.0.0.1", port)).close()
