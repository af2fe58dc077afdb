"""What the client of the login service makes of whatever may answer at its address: a result, or LoginFailed."""

import asyncio
import gzip
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelink.errors import ConfigError
from gatelink.login import client as module
from gatelink.login.client import LoginClient, LoginFailed
from tests.e2e.dialling import listening
from tests.e2e.support import make_certificate
from tests.fakes import settle
from tests.support import MS, run_watched

GOOD = json.dumps(
    {"uid": 7, "token": "t" * 43, "expires_at": 1e9, "addresses": {"tcp": "tcp://a:1"}, "public_key": ""}
).encode()
PASSWORD = "correct horse"


def http(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def answering(answer: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a listener that gives this answer to the first bytes of every connection, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")  # all of it: closing with unread bytes is a reset
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (OSError, EOFError, asyncio.LimitOverrunError, RuntimeError):  # uvloop's of a transport that is closed
            pass
        writer.close()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


async def fail(url: str, timeout: float = 20_000 * MS, what: str = "login") -> LoginFailed:  # noqa: ASYNC109
    """How that request fails."""
    async with LoginClient(url, timeout=timeout) as client:
        with pytest.raises(LoginFailed) as failed:
            if what == "login":
                await client.login("anna", PASSWORD)
            elif what == "logout":
                await client.logout("a token")
            else:
                await client.servers()
    error = failed.value
    assert PASSWORD not in str(error) and "a token" not in str(error) and len(str(error)) < 700
    return error


CASES = {
    "a page": (http("200 OK", b"<html>welcome to our wifi</html>", "content-type: text/html"), 200, "is this its addr"),
    "nothing, with success": (http("204 No Content"), 204, "no answer of a login service"),
    "empty": (http("200 OK"), 200, "no answer of a login service"),
    "JSON of the wrong shape": (http("200 OK", b'{"uid": "seven"}', "content-type: application/json"), 200, "uid"),
    "JSON of another type": (http("200 OK", b"[]"), 200, "is this its address"),
    "deep JSON": (http("200 OK", b"[" * 100_000), 200, "is this its address"),
    "not UTF-8": (http("200 OK", b'{"uid": 7, "token": "\xff\xfe"}'), 200, "is this its address"),
    "a proxy's error": (http("502 Bad Gateway", b"<h1>nginx</h1>", "content-type: text/html"), 502, "Bad Gateway"),
    "an error without words": (http("500 "), 500, "500"),
    "an error that is no problem": (http("404 Not Found", b'{"error": 1}'), 404, "404 Not Found"),
    "a redirect": (http("301 Moved", b"", "location: http://else.where/"), 301, "redirects are not followed"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", 0, "not HTTP"),
    "an echo": (b"POST /v1/login HTTP/1.1\r\n\r\n" + PASSWORD.encode(), 0, "not HTTP"),
    "an end": (b"", 0, "no answer"),
    "half a head": (b"HTTP/1.1 200 O", 0, "no answer"),
    "half a body": (http("200 OK", GOOD[:20], length=len(GOOD)), 0, "no answer"),
    "two lengths": (http("200 OK", GOOD, "content-length: 3"), 0, "no answer"),
    "a switch of protocols": (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 0, "no answer"),
    "a wait that is no number": (http("429 Too Many", b"", "retry-after: \xb2"), 429, "429"),
    "a wait without end": (http("429 Too Many", b"", "retry-after: " + "9" * 1_000), 429, "429"),
}


@pytest.mark.parametrize("case", CASES)
async def test_whatever_answers_the_login_fails_with_its_status_and_url(case: str) -> None:
    answer, status, words = CASES[case]
    async with answering(answer) as url:
        error = await fail(url)
    assert (error.status, error.code, error.url) == (status, "", url + "/v1/login")
    assert words in str(error) and url in str(error) and error.retry_after is None


async def test_what_is_wrong_with_the_others_answers_is_said_too() -> None:
    for what, answer in (
        ("servers", GOOD),
        ("servers", b"null"),
        ("servers", b'[{"id": 1}]'),
        ("logout", GOOD),
        ("logout", b""),
    ):
        async with answering(http("200 OK", answer)) as url:
            error = await fail(url, what=what)
        assert error.status == 200 and "is this its address" in str(error)


async def test_a_reply_is_read_up_to_a_limit_however_it_is_made() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
            await writer.drain()

    for answer in (http("200 OK", bytes(module.MAX_REPLY + 1)), endless):
        async with answering(answer) as url:
            error = await fail(url)
        assert error.status == 200 and "more than 1048576 bytes" in str(error)
    bomb = gzip.compress(bytes(100_000_000))
    async with answering(http("200 OK", bomb, "content-encoding: gzip")) as url:
        error = await fail(url)
    assert error.status == 200 and "compressed" in str(error)


async def test_a_request_has_its_time_however_the_reply_trickles() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(5 * MS)

    async with answering(trickle) as url:
        error = await fail(url, timeout=200 * MS)
    assert error.status == 0 and "not in time" in str(error)


async def test_a_reset_a_wrong_port_and_tls_where_there_is_none_are_failed_logins(tmp_path: Path) -> None:
    resetting = await asyncio.start_server(lambda reader, writer: writer.transport.abort(), "127.0.0.1", 0)
    port = resetting.sockets[0].getsockname()[1]
    for scheme in ("http", "https"):
        assert "no answer" in str(await fail(f"{scheme}://127.0.0.1:{port}"))
    resetting.close()
    for url in ("http://127.0.0.1:9", "http://localhost:9", "http://no-such-host.invalid", "http://a..b"):
        error = await fail(url)
        assert error.status == 0 and error.url == f"{url}/v1/login" and error.__cause__ is not None
    chain, key, _ = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    assert "certificate" in str(await fail(f"https://127.0.0.1:{port}")).lower(), "it is nobody's that we trust"
    assert "no answer" in str(await fail(f"http://127.0.0.1:{port}"))
    server.close()
    await server.wait_closed()
    await settle()


async def test_no_secret_of_the_url_is_in_an_error() -> None:
    error = await fail("http://anna:hunter2@127.0.0.1:9/?key=hunter2#hunter2")
    assert error.url == "http://127.0.0.1:9/v1/login" and "hunter2" not in str(error)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "localhost", "ftp://a", "http://", "http://a:port", "tcp://a:1"])
def test_a_url_that_can_not_be_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="write it as http://"):
        LoginClient(url)


async def test_a_cancelled_login_is_cancelled() -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def never(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await over.wait()

    async with answering(never) as url, LoginClient(url) as client:
        login = asyncio.create_task(client.login("anna", PASSWORD))
        await asked.wait()
        login.cancel()
        with pytest.raises(asyncio.CancelledError):
            await login
        over.set()


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_failed_login(data: bytes, is_body: bool) -> None:
    async def answer_so() -> None:
        async with answering(http("200 OK", data) if is_body else data) as url:
            await fail(url)

    run_watched(answer_so())


async def test_a_good_answer_is_a_login() -> None:
    async with answering(http("200 OK", GOOD)) as url, LoginClient(url + "/") as client:
        assert (await client.login("anna", PASSWORD)).uid == 7
