"""Connects sockets that have no transport: the compiled core reads them (docs/native.md)."""

import asyncio
import socket

from gatelink.net.endpoints import Endpoint


async def open_socket(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> tuple[socket.socket, str]:
    """A socket that is connected to `endpoint`, a tcp:// or unix:// one; and its peer's address, "" of a unix:// one.

    Tries the addresses of its host in turn. Raises the OSError of the first one if none can be reached.
    """
    if endpoint.scheme == "unix":
        return _unix_socket(endpoint.path), ""
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    first: OSError | None = None
    for family, _, _, _, address in found:
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(opened, address)
            return opened, str(address[0])  # not the socket's, which a peer's reset takes away
        except OSError as error:
            opened.close()
            first = first or error
        except BaseException:
            opened.close()
            raise
    raise first or OSError(f"{endpoint.host} has no address")


def _unix_socket(path: str) -> socket.socket:
    """Raises BlockingIOError if too many wait to be accepted there: what connects a Unix socket never takes time."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.connect(path)
    except BaseException:
        opened.close()
        raise
    return opened
