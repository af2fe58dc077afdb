"""A `connect()` that is cancelled, or whose time is over, in the very moment in which it succeeded."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gatelink import Catalog, Handlers, Session, connect
from gatelink.net.connection import Connection
from gatelink.net.dialer import Dialer
from gatelink.session.states import SessionState
from gatelink.wire.base import VERIFY_SUCCEEDED, ClientVerifySucceeded
from gatelink.wire.frames import encode_frame
from tests.e2e.support import leave

ANSWER = encode_frame(
    VERIFY_SUCCEEDED,
    Catalog().by_id[VERIFY_SUCCEEDED].encode(ClientVerifySucceeded(source=0, uid=1, source_id=0, type=0)),
)


@pytest.fixture
def hasty_server() -> Iterator[int]:
    """The port of a server that verifies each client before it has asked."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = listener.accept()
        peer.sendall(ANSWER)
        peer.recv(1000)
        while peer.recv(1000):
            pass
        peer.close()

    thread = threading.Thread(target=answer)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


async def test_a_session_of_a_cancelled_connect_ends(hasty_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Dialer._made

    def made_late(self: Dialer, connection: Connection) -> None:
        made(self, connection)
        time.sleep(0.1)  # the answer is read in the same turn as this, before `create_connection` has returned

    monkeypatch.setattr(Dialer, "_made", made_late)
    handlers = Handlers(Catalog())
    seen: list[Session] = []

    @handlers.on_verified
    def verified(session: Session) -> None:
        seen.append(session)
        task.cancel()

    task = asyncio.ensure_future(
        connect(f"tcp://127.0.0.1:{hasty_server}", uid=1, token="x", handlers=handlers, base_protocol=True)
    )
    with pytest.raises(asyncio.CancelledError):
        await task
    await seen[0].wait_closed()


async def test_a_session_that_was_made_in_time_is_given_though_the_loop_stood_still_since(
    hasty_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[asyncio.Timeout] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        timeouts.append(asyncio.Timeout(asyncio.get_running_loop().time() + seconds))
        return timeouts[-1]

    monkeypatch.setattr(asyncio, "timeout", timeout)
    handlers = Handlers(Catalog())

    @handlers.on_verified
    def verified(session: Session) -> None:
        timeouts[0].reschedule(asyncio.get_running_loop().time())  # it strikes before `connect` can go on

    session = await connect(f"tcp://127.0.0.1:{hasty_server}", uid=1, token="x", handlers=handlers, base_protocol=True)
    assert session.state is SessionState.OPEN
    await leave(session)
