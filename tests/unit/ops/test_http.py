"""Where the small HTTP server listens."""

import errno
import socket
from typing import Any

import pytest

from examples.demo import reserved_ports
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


def test_a_free_port_is_one_that_is_free_at_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel chooses one for the first address alone."""
    create = socket.create_server
    with reserved_ports() as port, create(("127.0.0.2", port)):
        first = [port]

        def created(address: tuple[str, int], **options: Any) -> socket.socket:
            host, wanted = address
            return create((host, first.pop() if first and not wanted else wanted), **options)

        monkeypatch.setattr(socket, "create_server", created)
        found = listeners([(V4, "127.0.0.1"), (V4, "127.0.0.2")], 0)
        assert not first and port not in {each.getsockname()[1] for each in found}
        assert len({each.getsockname()[1] for each in found}) == 1
        close(found)
        create(("127.0.0.1", port)).close()


def test_where_no_port_is_free_at_all_addresses_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server
    with reserved_ports() as port, create(("127.0.0.2", port)):
        monkeypatch.setattr(socket, "create_server", lambda address, **options: create((address[0], port), **options))
        with pytest.raises(OSError) as caught:
            listeners([(V4, "127.0.0.1"), (V4, "127.0.0.2")], 0)
        assert caught.value.errno == errno.EADDRINUSE


def test_a_port_that_is_taken_at_one_address_is_an_error_and_nothing_is_left_open() -> None:
    with reserved_ports() as port, socket.create_server(("127.0.0.2", port)):
        with pytest.raises(OSError) as caught:
            listeners([(V4, "127.0.0.1"), (V4, "127.0.0.2")], port)
        assert caught.value.errno == errno.EADDRINUSE
        socket.create_server(("127.0.0.1", port)).close()
