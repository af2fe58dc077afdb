"""The user and password that NATS gets when they have characters that a URL escapes."""

import asyncio
import contextlib
import json
from urllib.parse import quote

import pytest

from gatelink.cluster.engine import EngineStats, EngineUnavailable
from gatelink.cluster.engines.nats_client import NatsConnection
from gatelink.logger import Logger, RateLimitedLogger
from tests.support import MS

INFO = {"server_id": "one", "version": "2.11.0", "proto": 1, "max_payload": 1 << 21, "headers": True, "nonce": "n"}


async def told(userinfo: str) -> dict[str, object]:
    """The CONNECT of a connection to a URL with `userinfo`, by a server that then ends it."""
    heard: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        line = await reader.readline()
        if line.startswith(b"CONNECT ") and not heard.done():
            heard.set_result(json.loads(line.removeprefix(b"CONNECT ")))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"nats://{userinfo}@127.0.0.1:{port}"
        connection = NatsConnection(url, EngineStats(), RateLimitedLogger(Logger("test")), set())
        with contextlib.suppress(EngineUnavailable):  # it may notice the end only later
            await connection.open("test", None, 2_000 * MS)
        await connection.close()
        return await heard


@pytest.mark.parametrize("user", ["josé", "m@e", "a:b", "50%41"])
@pytest.mark.parametrize("password", ["5ec4e7", 'p/w?#%"é @:'])
async def test_user_and_password_arrive_as_they_are(user: str, password: str) -> None:
    found = await told(f"{quote(user, safe='')}:{quote(password, safe='')}")
    assert (found["user"], found["pass"]) == (user, password)


async def test_a_token_alone_arrives_as_it_is() -> None:
    found = await told(quote("t/ok%en", safe=""))
    assert found["auth_token"] == "t/ok%en" and "user" not in found
