"""The TypeScript SDK in Chromium, behind a proxy that breaks connections: `make test-browser`.

The page is clients/typescript/tests/browser/page.ts, which `make test-browser` bundles before.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from gatelink import CloseCode, Limits, Listen, StaticTokens
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Guest
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.service import LoginService
from gatelink.testing.chaos import ChaosProxy
from gatelink.testing.faults import Delay, Reset
from tests.browser.pages import ROOT, page_at, value, wait_for
from tests.e2e.login.support import new_accounts
from tests.e2e.support import EchoServer, until

SCRIPT = ROOT / "clients" / "typescript" / "build" / "sdk.js"
PAGE = b'<!doctype html>\n<meta charset="utf-8">\n<title>the SDK</title>\n<script>%b</script>\n'


OPEN = Listen(endpoint="ws://127.0.0.1:0", origins=("*",))


def html() -> bytes:
    return PAGE % SCRIPT.read_bytes().replace(b"</script", b"<\\/script")


class Game:
    """A server, a proxy before it, and a page with the SDK."""

    def __init__(self, server: EchoServer, proxy: ChaosProxy, page: Page) -> None:
        self.server = server
        self.proxy = proxy
        self.page = page

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.proxy.address[1]}"

    async def player(self, uid: int = 7, **options: Any) -> None:
        """Connects `p`, the page's player."""
        await value(self.page, f"p = Player.at('{self.address}', '{uid}', {json.dumps(options)}), p.client.connect()")

    async def wait_for(self, expression: str) -> None:
        await wait_for(self.page, expression)


@contextlib.asynccontextmanager
async def game(*faults: Any, tokens: Any = None) -> AsyncIterator[Game]:
    limits = Limits(close_timeout=0.5, message_rate=1e5, message_burst=100_000, byte_rate=1e8, byte_burst=10**8)
    async with (
        page_at(html()) as (page, _),
        EchoServer(OPEN, resume_plain=True, limits=limits, tokens=tokens or StaticTokens()) as server,
        ChaosProxy(("127.0.0.1", server.endpoint.port), faults) as proxy,
    ):
        yield Game(server, proxy, page)
        await server.stop(0)


async def test_each_message_arrives_once_and_in_order_over_many_breaks() -> None:
    count = 3_000
    async with game() as g:
        await g.player()
        session = g.server.session(7)
        for start in range(0, count, 300):
            await g.wait_for("p.client.state === 'connected'")
            await value(g.page, f"p.say({start}, {start + 300})")
            g.proxy.cut_all()
            await asyncio.sleep(0.05)
            g.proxy.cut_all()  # during the resume, or soon after
        await g.wait_for(f"p.got.length >= {count}")
        assert await value(g.page, "p.got") == list(range(count))
        assert await value(g.page, "p.log.filter(e => e === 'resumed').length") >= 5
        assert g.server.session(7) is session
        await value(g.page, "p.client.close()")
        await until(lambda: g.server.ended == [(7, CloseCode.NORMAL)])


async def test_breaks_inside_of_frames_lose_nothing() -> None:
    count = 2_000
    breaks = Reset(mean_bytes=4_000, direction="up"), Reset(mean_bytes=9_000, direction="down")
    async with game(Delay(seconds=0.01), *breaks) as g:
        await g.player()
        for start in range(0, count, 50):
            await value(g.page, f"p.say({start}, {start + 50})")
        await g.wait_for(f"p.got.length >= {count}")
        assert await value(g.page, "p.got") == list(range(count))
        times = sorted(await value(g.page, "p.times"))
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"resumed {len(times)} times; ms from the break: p50 {p50:.0f}, p99 {p99:.0f}")
        assert len(times) >= 5


async def test_offline_and_online_as_the_browser_says() -> None:
    async with game() as g:
        await g.player()
        await g.page.context.set_offline(True)
        await g.wait_for("p.log.some(e => e.startsWith('suspended'))")
        assert await value(g.page, "[p.client.state, p.client.reason.text]") == ["connecting", "the browser is offline"]
        await value(g.page, "p.say(0, 10)")
        connections = g.proxy.connections
        await asyncio.sleep(0.5)
        assert g.proxy.connections == connections, "no attempts while the browser is offline"
        await g.page.context.set_offline(False)
        await g.wait_for("p.got.length === 10")
        assert await value(g.page, "p.log.at(-1)") == "resumed"


async def test_suspend_and_wake() -> None:
    async with game() as g:
        await g.player()
        await value(g.page, "p.say(0, 5), p.client.suspend(), p.say(5, 10)")
        await until(lambda: g.server.session(7).state.name == "DETACHED")
        await value(g.page, "p.client.wake()")
        await g.wait_for("p.got.length === 10")
        assert await value(g.page, "p.log") == ["connected", "suspended 4011", "resumed"]


async def test_a_page_that_comes_back_checks_its_connection() -> None:
    async with game() as g:
        await g.player(limits={"checkTimeout": 200, "heartbeatInterval": 60_000, "heartbeatTimeout": 120_000})
        g.proxy.drop()
        await value(g.page, "p.say(0, 1), document.dispatchEvent(new Event('visibilitychange'))")
        await g.wait_for("p.log.includes('suspended 4004')")
        g.proxy.restore()
        await g.wait_for("p.got.length === 1")


async def test_requests_and_kicks() -> None:
    async with game() as g:
        await g.player()
        failed = "p.client.request(messages.Ask({ n: 1 })).then(() => 0, error => error.code)"
        assert await value(g.page, failed) == 1  # no handler there
        g.server.session(7).kick("enough")
        await g.wait_for("p.client.state === 'disconnected'")
        assert await value(g.page, "[p.client.reason.code, p.client.reason.text]") == [CloseCode.KICKED, "enough"]


async def test_a_guest_logs_in_and_is_the_same_after_a_reload(tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        tokens = EngineTokens(engine, lifetime=600.0)
        async with (
            game(tokens=tokens) as g,
            LoginService(
                "http://127.0.0.1:0",
                engine=engine,
                tokens=tokens,
                lifetime=600.0,
                methods={"guest": Guest(accounts)},
                accounts=accounts,
                gateways=StaticGateways([GatewayInfo(id=1, name="here", addresses=(g.address,))]),
                origins=("*",),
            ) as service,
        ):
            login = f"p = Player.login('{service.url}'), p.client.connect().then(() => String(p.client.uid))"
            uid = await value(g.page, login)
            await value(g.page, "p.say(0, 3)")
            await g.wait_for("p.got.length === 3")
            g.proxy.cut_all()
            await g.wait_for("p.log.includes('resumed')")
            await g.page.reload()
            assert await value(g.page, login) == uid


async def test_a_page_without_webcrypto_is_told_so_and_gets_sessions_that_are_not_resumed() -> None:
    async with page_at(html(), host="play.test") as (page, _), EchoServer(OPEN, resume_plain=True) as server:
        assert await value(page, "[isSecureContext, crypto.subtle]") == [False, None]
        await value(page, f"p = Player.at('{server.endpoint}', '7'), p.client.connect()")
        assert "crypto.subtle is missing" in (await value(page, "p.log"))[0]
        assert not await value(page, "p.client.isResumable")
        await value(page, "p.say(0, 3)")
        await wait_for(page, "p.got.length === 3")
        for connection in server.connections:
            connection.abort()
        await wait_for(page, "p.log.filter(e => e === 'connected').length === 2")
        await server.stop(0)


async def test_a_page_without_storage_is_told_so() -> None:
    async with page_at(html()) as (page, _):
        broken = "Object.defineProperty(globalThis, 'localStorage', { get() { throw new Error('blocked') } })"
        await value(page, broken)
        said = await value(page, "(() => { try { gatelink.deviceId() } catch (error) { return error.message } })()")
        assert "no storage" in said
