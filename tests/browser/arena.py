"""The arena's page in Chromium: two players see the same, also after the connection was cut. `make test-browser`."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ViewportSize, async_playwright
from playwright.async_api import Page as Tab

from examples.arena.game import Lobby, Room
from examples.arena.processes import ARENA, cluster
from gatelink import Listen, Server
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Guest
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.service import LoginService
from gatelink.ops.page import Page
from gatelink.testing.chaos import ChaosProxy
from tests.e2e.login.support import new_accounts

PATIENCE = 40.0  # s
WIDE: ViewportSize = {"width": 1200, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - a page changes, which sets no event here
            await asyncio.sleep(0.05)


class Player:
    """A player at a page. Its policy lets no script wait for what a test asks, so the test asks again and again."""

    def __init__(self, page: Tab) -> None:
        self.page = page
        self.uid = ""

    @classmethod
    async def at(cls, browser: Browser, url: str, *, is_phone: bool = False) -> "Player":
        context = await browser.new_context(viewport=PHONE if is_phone else WIDE, has_touch=is_phone)
        player = cls(await context.new_page())
        await player.page.goto(url)
        await player.until("globalThis.game?.isInside")  # it loads where to log in first
        player.uid = await player.value("String(game.client.uid)")
        return player

    async def value(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def until(self, expression: str, is_so: Callable[[Any], Any] = bool) -> None:
        async def holds() -> bool:
            return bool(is_so(await self.value(expression)))

        await eventually(holds)

    async def say(self, text: str) -> None:
        await self.page.fill("#words", text)
        await self.page.press("#words", "Enter")

    async def walk(self, key: str, seconds: float) -> None:
        await self.page.focus("#field")
        await self.page.keyboard.down(key)
        await asyncio.sleep(seconds)  # so long a player holds the key
        await self.page.keyboard.up(key)

    async def words(self) -> list[list[str]]:
        """All that was said, each as the uid and the text."""
        lines: list[list[str]] = await self.value(
            "[...document.querySelectorAll('#log p:not(.note)')].map(p => [p.children[0].innerText, p.lastChild.data])"
        )
        return [[self.uid if name == "you" else name, text] for name, text in lines]

    async def notes(self) -> str:
        notes: str = await self.value("[...document.querySelectorAll('#log .note')].map(p => p.innerText).join('; ')")
        return notes

    async def has_all(self) -> None:
        """Wait until all steps and words of this player have come back; none may be missing, or twice."""
        await self.until("game.tally.sent === game.tally.told")
        assert await self.value(
            "[game.tally.missing, game.tally.wrong, document.getElementById('missing').innerText]"
        ) == [0, 0, "0"]

    async def place(self) -> list[int]:
        place: list[int] = await self.value("[Math.round(game.place.x), Math.round(game.place.y)]")
        return place

    async def sees(self, other: "Player") -> None:
        """Wait until `other` is drawn here at the place where it is on its own page."""
        drawn = f"(at => [at?.x, at?.y])(game.walkers.get({other.uid}n)?.at(performance.now()))"

        async def holds() -> bool:
            return bool(await self.value(drawn) == await other.place())

        await eventually(holds)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        await browser.close()


async def see_the_same(anna: Player, ben: Player, count: int) -> None:
    for player in (anna, ben):
        await player.until("document.querySelectorAll('#log p:not(.note)').length", lambda length: length >= count)
        await player.has_all()
    words = await anna.words()
    assert words == await ben.words() and len(words) == count
    await anna.sees(ben)
    await ben.sees(anna)


async def test_two_pages_at_a_cluster_see_the_same_also_after_a_cut(tmp_path: Path) -> None:
    async with cluster(tmp_path, print, lambda pid: None) as at, chromium() as browser:
        anna = await Player.at(browser, f"{at.page}#hall")
        ben = await Player.at(browser, f"{at.page}#hall", is_phone=True)
        assert anna.uid != ben.uid, "each page is a guest of its own"
        await anna.say("hello")
        await ben.until("document.getElementById('log').innerText", lambda text: "hello" in text)
        await ben.say("hello to you")
        await anna.walk("ArrowRight", 0.5)
        await ben.page.touchscreen.tap(100, 120)
        await anna.until("document.getElementById('rtt').innerText", lambda text: text.endswith(" ms"))
        await see_the_same(anna, ben, 2)

        await anna.page.click("#cut")
        await anna.until("document.getElementById('state').innerText === 'connecting'")
        for n in range(5):
            await anna.say(f"anna {n}")
            await ben.say(f"ben {n}")
        await anna.walk("ArrowLeft", 0.5)
        await ben.page.touchscreen.tap(200, 250)
        await anna.until("document.getElementById('log').innerText", lambda text: "connected again" in text)
        await see_the_same(anna, ben, 12)
        assert "a new session" not in await anna.notes()
        assert await ben.notes() == "you are in hall, with 1 other"


async def test_breaks_on_the_way_lose_no_step_and_no_word(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(MemoryEngine())
        tokens = EngineTokens(engine, lifetime=600.0)
        server = Server(Listen(endpoint="ws://127.0.0.1:0", origins=("*",)), tokens=tokens, resume_plain=True)
        server.register(Lobby(server))
        server.register(Room(server))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        proxy = await stack.enter_async_context(ChaosProxy(("127.0.0.1", server.endpoints[0].port), ()))
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        address = f"ws://127.0.0.1:{proxy.address[1]}"
        service = await stack.enter_async_context(
            LoginService(
                "http://127.0.0.1:0",
                engine=engine,
                tokens=tokens,
                lifetime=600.0,
                methods={"guest": Guest(accounts)},
                accounts=accounts,
                gateways=StaticGateways([GatewayInfo(id=1, name="here", addresses=(address,))]),
                origins=("*",),
            )
        )
        page = await stack.enter_async_context(Page(ARENA / "web", "http://127.0.0.1:0"))
        page.tell(service.url)
        browser = await stack.enter_async_context(chromium())
        anna, ben = await Player.at(browser, page.url), await Player.at(browser, page.url)
        for n in range(6):
            walking = asyncio.gather(anna.walk("ArrowUp", 0.4), ben.walk("ArrowDown", 0.4))
            await asyncio.sleep(0.2)  # in the middle of a walk
            proxy.cut_all()
            await walking
            await anna.say(f"anna {n}")
            await ben.say(f"ben {n}")
        await see_the_same(anna, ben, 12)
        for player in (anna, ben):
            assert "connected again" in await player.notes() and "a new session" not in await player.notes()
