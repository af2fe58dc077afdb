"""A driver of `gatelink conform`: the SDK in a page of Chromium, whose lines go to standard output and input.

`make test-browser` bundles the page's script, clients/typescript/tests/conformance/page.ts, before.
"""

import asyncio
import sys

from tests.browser.pages import ROOT, page_at

SCRIPT = ROOT / "clients" / "typescript" / "build" / "driver.js"
MAX_READ = 1_048_576


def write(lines: str) -> None:
    sys.stdout.write(lines)
    sys.stdout.flush()


async def main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with page_at(b"<!doctype html>") as (page, _):
        page.on("pageerror", lambda error: print(error, file=sys.stderr))
        await page.expose_function("write", write)
        await page.add_script_tag(path=SCRIPT)
        rest = b""
        while data := await reader.read(MAX_READ):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                await page.evaluate("take", [line.decode() for line in lines])


if __name__ == "__main__":
    asyncio.run(main())
