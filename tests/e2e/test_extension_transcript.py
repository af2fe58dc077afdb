"""The transcripts of docs/vectors are what a real server says, byte for byte, given the vectors' random numbers."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gatelink import Catalog, Server, Session, StaticTokens
from gatelink.session import extension
from gatelink.wire import noise
from tests.support import MS
from tests.vectors import make_extension as vectors

CATALOG = Catalog()


@CATALOG.message(vectors.SAY[0])
class Say(bytes):
    pass


@CATALOG.message(vectors.REPLY[0])
class Reply(bytes):
    pass


class FixedKeys:
    """Stands in for X25519PrivateKey where ephemeral keys are made."""

    def __init__(self, keys: Iterator[int]) -> None:
        self._keys = keys

    def generate(self) -> X25519PrivateKey:
        return vectors.private(next(self._keys))


@pytest.mark.parametrize("name", ["session", "resume"])
async def test_a_server_says_what_the_transcript_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [transcript] = [line for line in vectors.lines() if line.get("name") == name]
    keys = iter([vectors.EPHEMERAL[1], vectors.EPHEMERAL_AGAIN[1]])
    monkeypatch.setattr(noise, "X25519PrivateKey", FixedKeys(keys))
    monkeypatch.setattr("secrets.token_bytes", {16: vectors.SESSION_ID, 32: vectors.RESUME_KEY}.__getitem__)
    monkeypatch.setattr(extension, "ACK_SECONDS", 100 * MS)
    server = Server(
        "tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=CATALOG, keys=[vectors.SERVER_KEY], id=vectors.SERVER_ID
    )

    @server.on(Say)
    def say(session: Session, message: Say) -> None:
        session.send(Reply(vectors.REPLY[1]))

    async with server:
        for connection in transcript["connections"]:
            await converse(server, connection["steps"])


async def converse(server: Server, steps: list[dict[str, Any]]) -> None:
    """Writes the client's steps, and reads the server's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.endpoints[0].port)
    for step in steps:
        data = bytes.fromhex(step["bytes"])
        if step["from"] == "client":
            writer.write(data)
        else:
            assert await reader.readexactly(len(data)) == data, step["what"]
    if steps[-1]["what"] == "CLOSE":
        assert await reader.read() == b"", "it says something behind the client's CLOSE"
    writer.close()
    await writer.wait_closed()
