"""How soon a page is back after a break: a resume, and another login, in Chromium, with the SDK's own delays.

A proxy cuts the connection of one player after the other. Where sessions resume, the time ends with `resumed`. Where
they do not, as over ws:// without resume_plain, it ends with `connected`. Both begin with `suspended`. `make bench-ts`
bundles the page before.
"""

import argparse
import asyncio
import platform
from math import ceil

from playwright.async_api import Page

from gatelink import Limits, Listen, StaticTokens
from gatelink.ops import logs
from gatelink.testing.chaos import ChaosProxy
from tests.browser.pages import page_at, value, wait_for
from tests.browser.sdk import html
from tests.e2e.support import EchoServer


async def times(page: Page, *, resumes: bool, breaks: int) -> list[float]:
    """Milliseconds from each of so many breaks to its end, in order of size."""
    limits = Limits(close_timeout=0.5, connect_rate=1e5, connect_burst=100_000)
    listen = Listen(endpoint="ws://127.0.0.1:0", origins=("*",))
    async with (
        EchoServer(listen, resume_plain=resumes, limits=limits, tokens=StaticTokens()) as server,
        ChaosProxy(("127.0.0.1", server.endpoint.port), ()) as proxy,
    ):
        address = f"ws://127.0.0.1:{proxy.address[1]}"
        found = []
        for uid in range(1, breaks + 1):  # each with a client of its own: after a short connection its delays grow
            await value(page, f"p = Player.at('{address}', '{uid}', {{ reconnect: {{}} }}), p.client.connect()")
            proxy.cut_all()
            await wait_for(page, "p.times.length > 0")
            found.append(await value(page, "p.times[0]"))
            await value(page, "p.client.close()")
        await server.stop(0)
    return sorted(found)


def percentile(found: list[float], share: float) -> float:
    return found[ceil(share * len(found)) - 1]


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--breaks", type=int, default=200, help="of each kind (%(default)s)")
    options = parser.parse_args()
    logs.configure(level="warning")
    async with page_at(html()) as (page, _):
        browser = page.context.browser
        assert browser is not None
        print(f"Chromium {browser.version}, Python {platform.python_version()}, {options.breaks} breaks of each kind")
        for what, resumes in (("resumed", True), ("logged in again", False)):
            found = await times(page, resumes=resumes, breaks=options.breaks)
            print(
                f"{what:<16} p50 {percentile(found, 0.5):5.0f} ms, p99 {percentile(found, 0.99):5.0f} ms, "
                f"the shortest {found[0]:5.1f} ms"
            )


if __name__ == "__main__":
    asyncio.run(main())
