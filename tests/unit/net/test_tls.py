"""The accepting socket of a TLS listener, where the system has no descriptors left."""

import asyncio
import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from gatelink.config import Limits
from gatelink.net import acceptor, tls
from gatelink.net.tls import TlsServer
from gatelink.session.loop_context import LoopContext
from gatelink.wire.messages import Catalog
from tests.e2e.support import until


class Full(socket.socket):
    """A socket that accepts nothing. tries: how often it was asked."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        raise OSError(errno.EMFILE, "")


async def test_without_descriptors_a_tls_listener_says_so_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, object]] = []
    monkeypatch.setattr(acceptor.quiet, "error", lambda event, **keys: reported.append((event, keys["why"])))
    monkeypatch.setattr(tls, "PAUSE", 0.001)
    context = LoopContext(asyncio.get_running_loop(), Catalog(), Limits())
    unused: Any = SimpleNamespace(context=context, admission=None)
    listening = Full()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    server = TlsServer(unused, listening, unused, unused)
    with socket.socket() as waiting:
        waiting.setblocking(False)
        waiting.connect_ex(listening.getsockname())
        await until(lambda: listening.tries > 1)
        server.close()
    assert reported[0] == ("no connection is accepted for a second", "Too many open files")
