"""A process tells the one that started it that it is ready, as sd_notify(3) of systemd does.

It sends one datagram to the Unix socket of $NOTIFY_SOCKET: READY=1, and what it has to say as X_NAME=value.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from gatelink.ops import logs

SOCKET = "NOTIFY_SOCKET"
"""The environment variable with the socket's path. One that begins with @ is an abstract name."""

MAX_MESSAGE = 4_096
"""Bytes of a datagram that are read; the rest is dropped."""

AT_ONCE = 16
"""Datagrams that are read in one turn of the loop. Any process of the machine can send them."""

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


def tell(**facts: str) -> None:
    """Say that this process is ready, with `facts`. It says nothing if no one has asked, and raises nothing."""
    path = os.environ.get(SOCKET, "")
    if not path:
        return
    logs.flush()  # so that the lines of the start come first
    lines = ["READY=1", *(f"X_{name.upper()}={value}" for name, value in facts.items())]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto("\n".join(lines).encode(errors="replace"), path.replace("@", "\0", 1) if path[0] == "@" else path)


@contextmanager
def receiving(on_ready: Callable[[int, Mapping[str, str]], None]) -> Iterator[str]:
    """Receive what processes of this machine tell during the block. Yields the socket's path, for their environment.

    on_ready: called in the running loop with the process id, which the kernel vouches for, and the facts by name.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        receiver.bind("")  # the kernel gives it an abstract name, which leaves no file behind

        def receive() -> None:
            with suppress(OSError):
                for _ in range(AT_ONCE):
                    data, ancillary, _, _ = receiver.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(_CREDENTIALS.size))
                    for level, kind, found in ancillary:
                        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                            lines = data.decode(errors="replace").splitlines()
                            if "READY=1" in lines:
                                on_ready(_CREDENTIALS.unpack(found)[0], _facts(lines))

        loop = asyncio.get_running_loop()
        loop.add_reader(receiver, receive)
        try:
            yield "@" + receiver.getsockname()[1:].decode()
        finally:
            loop.remove_reader(receiver)


def _facts(lines: list[str]) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in lines if line.startswith("X_"))
    return {name.lower(): value for name, _, value in pairs}
