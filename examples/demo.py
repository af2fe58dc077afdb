"""What the demos share."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


class DemoError(Exception):
    """The demo could not be run to its end; the text says why."""


@contextmanager
def reserved_ports(count: int = 1) -> Iterator[int]:
    """The first of `count` TCP ports of 127.0.0.1 in a row that only who is told of them gets, while the block runs.

    Each is held by a socket that is bound and does not listen: the kernel then gives the port to nobody who asks for
    any, nor to a connection that goes out, but a server may listen there, since both have SO_REUSEADDR.
    """
    while True:
        with ExitStack() as held:
            try:
                first: int = held.enter_context(_bound(0)).getsockname()[1]
                for port in range(first + 1, first + count):
                    held.enter_context(_bound(port))
            except (OSError, OverflowError):  # the next one is another's, or there is none
                continue
            yield first
            return


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        yield held
