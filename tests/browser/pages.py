"""A page in Chromium connects, talks, is cut, resumes and is closed: `make test-browser`.

It needs Debian's chromium and PyPI's playwright, and is no part of `make test`.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from gatelink import CloseCode, Limits, Listen
from tests.e2e.support import Echo, frame_of, serving, token_of, until

ROOT = Path(__file__).parents[2]
HTML = Path(__file__).with_name("page.html").read_bytes()
CHAT = ROOT / "examples" / "websocket" / "page.html"
ARGUMENTS = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"


@contextlib.asynccontextmanager
async def page_at(html: bytes = HTML, at: str = "", host: str = "127.0.0.1") -> AsyncIterator[tuple[Page, str]]:
    """The page in a browser, and its origin. at: what stands behind the origin in its address. host: its name there."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER % (len(html), html))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, async_playwright() as playwright:
        origin = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = await browser.new_page()
        await page.goto(f"{origin}/{at}")
        yield page, origin
        await browser.close()


async def value(page: Page, expression: str) -> Any:
    return await page.evaluate(expression)


async def wait_for(page: Page, expression: str) -> None:
    await page.wait_for_function(expression, timeout=20_000)


def body(n: int) -> list[int]:
    return list(frame_of(Echo(n))[6:])


async def test_a_page_connects_talks_is_cut_and_resumes() -> None:
    async with page_at() as (page, origin):
        listen = Listen(endpoint="ws://127.0.0.1:0", origins=(origin,))
        async with serving(listen, resume_plain=True, limits=Limits(close_timeout=0.5)) as server:
            token = token_of(7).decode()
            await value(page, f"void ((window.c = new Client('{server.endpoint}', 7, '{token}')).open())")
            await wait_for(page, "c.live")
            session = server.session(7)
            for n in range(100):
                await value(page, f"c.say({body(n)})")
                if n % 30 == 29:
                    for connection in server.connections:
                        connection.abort()
            await wait_for(page, "c.got.length >= 100")
            assert await value(page, "c.got") == [body(n) for n in range(100)]
            assert await value(page, "c.resumed") >= 1
            assert server.session(7) is session
            session.kick("enough")
            await wait_for(page, "c.codes.includes(4009)")
            await until(lambda: server.ended == [(7, CloseCode.KICKED)])


async def test_a_page_of_another_origin_gets_no_websocket() -> None:
    async with page_at() as (page, _):
        async with serving(Listen(endpoint="ws://127.0.0.1:0", origins=("https://play.example.com",))) as server:
            await value(page, f"void ((window.c = new Client('{server.endpoint}', 7, '')).open())")
            await wait_for(page, "c.codes.length > 0")
            assert await value(page, "c.codes") == [1006]
            assert server.stats.refused["origin"] == 1


async def test_a_page_is_told_why_its_login_is_refused() -> None:
    async with page_at() as (page, origin):
        async with serving(Listen(endpoint="ws://127.0.0.1:0", origins=(origin,))) as server:
            await value(page, f"void ((window.c = new Client('{server.endpoint}', 7, 'wrong')).open())")
            await wait_for(page, "c.codes.length > 0")
            assert await value(page, "c.codes") == [CloseCode.VERIFY_FAILED]


async def test_the_page_of_the_example_chats() -> None:
    from examples.websocket.server import server

    server.listen = (Listen(endpoint="ws://127.0.0.1:0", origins=("*",)),)
    async with server, page_at(CHAT.read_bytes(), f"?uid=7&server={server.endpoints[0]}") as (page, _):
        await wait_for(page, "document.getElementById('said').textContent.includes('connected')")
        await page.fill("#text", "hello, world")
        await page.press("#text", "Enter")
        await wait_for(page, "document.getElementById('said').textContent.includes('7: hello, world')")
