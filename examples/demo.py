"""Shared parts of the demos."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


class DemoError(Exception):
    """The demo could not be run to its end. The text has the reason."""


OTHER_FILES = 300
"""Open files besides one a robot: second logins, HTTP connections, libraries, logs."""

ATTEMPTS = 100


@contextmanager
def reserved_ports(count: int = 1) -> Iterator[int]:
    """Reserve `count` TCP ports of 127.0.0.1 in a row during the block; gives the first.

    A socket that is bound and does not listen holds each port. So the kernel gives it to
    no socket that asks for any port, nor to a connection that goes out. But a server may
    listen there, since both have SO_REUSEADDR.

    Raises DemoError if there are no such ports.
    """
    for _ in range(ATTEMPTS):
        with ExitStack() as held:
            try:
                first: int = held.enter_context(_bound(0)).getsockname()[1]
            except OSError as error:
                raise DemoError(
                    f"no port of 127.0.0.1 can be had: {error.strerror}"
                ) from None
            try:
                for port in range(first + 1, first + count):
                    held.enter_context(_bound(port))
            except (OSError, OverflowError):  # the next port is in use, or there is none
                continue
            yield first
            return
    raise DemoError(
        f"{ATTEMPTS} times no {count} ports in a row were free on 127.0.0.1; "
        "end what listens there"
    )


def allow_files(robots: int) -> None:
    """Raise the soft limit of open files for the robots of this process.

    Raises DemoError over the hard limit.
    """
    needed = robots + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and needed > hard:
        raise DemoError(
            f"{robots:,} robots need {needed:,} open files, "
            f"and the hard limit is {hard:,}; "
            f"raise it as root: ulimit -Hn {needed}, or take fewer: "
            f"DEMO_ARGS='--count {max(1, hard - OTHER_FILES)}'"
        )
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
        yield held
