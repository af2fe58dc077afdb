"""The server of the SDK's end-to-end tests, behind a chaos proxy: one process, driven by lines of JSON.

On its standard input it takes commands, and answers each with a line: see `Commands`. It ends with its standard input.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from gatelink import (
    CloseCode,
    Identity,
    Limits,
    Listen,
    Refuse,
    RequestFailed,
    Server,
    Session,
    StaticTokens,
    Tokens,
    WireOptions,
)
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Custom, Guest, LoginRefused, Password
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.service import LoginService
from gatelink.session.renewal import CloseExpired
from gatelink.testing.chaos import ChaosProxy
from gatelink.testing.faults import Reset
from tests.e2e.login.support import new_accounts
from tests.typescript.messages import CATALOG, Add, Ask, Blob, Echo, InJson, InMsgpack, Order, Sum

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # logs go to the standard error


class TestServer(Server):
    """Echoes; remembers what each user sent and how its sessions ended."""

    def __init__(self, *listen: Listen, tokens: Tokens | None, **settings: Any) -> None:
        super().__init__(*listen, catalog=CATALOG, tokens=tokens or StaticTokens(), **settings)
        self.heard: dict[int, list[int]] = {}  # uid -> the numbers of its Echo messages, in order
        self.ended: list[tuple[int, int]] = []
        self.opened: Counter[int] = Counter()
        self.answers: list[Any] = []
        self.on(Echo)(self.echo)
        for same in (Blob, InMsgpack, InJson):
            self.on(same)(lambda session, message: session.send(message))
        self.on(Add)(self.add)
        self.on(Order)(self.order)
        self.on_verified(lambda session: self.opened.update([session.uid]))
        self.on_closed(lambda session: self.ended.append((session.uid, int(session.close_code or 0))))

    def echo(self, session: Session, message: Echo) -> None:
        self.heard.setdefault(session.uid, []).append(message.n)
        session.send(message)

    def add(self, session: Session, message: Add) -> Sum:
        if not message.numbers:
            raise Refuse(7, "nothing to add")
        return Sum(sum(message.numbers) % 2**64)

    async def order(self, session: Session, order: Order) -> None:
        match order.what:
            case "ask":
                try:
                    told = await session.request(Ask(order.n))
                    self.answers.append(told.n)
                except RequestFailed as error:
                    self.answers.append([int(error.code), error.detail, error.reason])
            case "goaway":
                session.go_away(order.n / 1_000)
            case "flood":
                for n in range(order.n):
                    session.send(Echo(n))
            case "lose-ticket":  # as if the process had been restarted
                if session.extension is not None:
                    session.extension.ticket = None
            case _:
                session.close(CloseCode[order.what], "as ordered")


class Commands:
    """What the test may ask for; a method a command, with its arguments by name."""

    def __init__(self, server: TestServer, proxy: ChaosProxy) -> None:
        self.server = server
        self.proxy = proxy

    def cut(self) -> None:
        self.proxy.cut_all()

    def drop(self) -> None:
        self.proxy.drop()

    def restore(self) -> None:
        self.proxy.restore()

    def pause(self) -> None:
        self.proxy.pause()

    def go_on(self) -> None:
        self.proxy.resume()

    def refuse(self, seconds: float) -> None:
        self.proxy.refuse(seconds)
        self.proxy.cut_all()

    def state(self, uid: str) -> dict[str, Any]:
        return self._state(int(uid))  # JavaScript can't write all of them as numbers

    def _state(self, uid: int) -> dict[str, Any]:
        session = self.server.sessions.get(uid)
        return {
            "heard": self.server.heard.get(uid, []),
            "opened": self.server.opened[uid],
            "ended": [code for who, code in self.server.ended if who == uid],
            "connections": self.proxy.connections,
            "breaks": self.proxy.breaks,
            "answers": self.server.answers,
            "expires_in": session.expires_in if session is not None else 0,
            "state": session.state.name if session is not None else None,
            "kept": session.outbox.held_bytes if session is not None else 0,
        }


async def oidc(credentials: Mapping[str, Any], address: str) -> Identity:
    """Takes one ID token, of a user whose uid no double holds."""
    if credentials["id_token"] != "an ID token":
        raise LoginRefused("another ID token")
    return Identity(2**53 + 1)


@asynccontextmanager
async def login_service(
    engine: MemoryEngine, tokens: EngineTokens, lifetime: float, address: str
) -> AsyncIterator[str]:
    """The URL of one that sends its users to the server at `address`."""
    with tempfile.TemporaryDirectory() as folder:
        async with new_accounts(Path(folder)) as accounts:
            service = LoginService(
                "http://127.0.0.1:0",
                engine=engine,
                tokens=tokens,
                lifetime=lifetime,
                methods={"password": Password(accounts), "guest": Guest(accounts), "oidc": Custom(oidc)},
                accounts=accounts,
                gateways=StaticGateways([GatewayInfo(id=1, name="here", addresses=(address,))]),
                origins=("*",),
            )
            async with service:
                yield service.url


async def main(settings: dict[str, Any]) -> None:
    lifetime: float = settings.get("login", 0)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(MemoryEngine())
        tokens = EngineTokens(engine, lifetime=lifetime, first_use=min(30.0, lifetime)) if lifetime else None
        server = TestServer(
            Listen(endpoint="ws://127.0.0.1:0", origins=("*",)),
            tokens=tokens,
            resume_plain=settings.get("resume", True),
            limits=Limits(**{"close_timeout": 0.5, **settings.get("limits", {})}),
            expiry=CloseExpired(warn=settings["warn"]) if "warn" in settings else None,
            wire=WireOptions(**settings.get("wire", {})),
        )
        await stack.enter_async_context(server)
        faults = [Reset(mean_bytes=mean, direction=way) for way, mean in settings.get("breaks", {}).items()]
        target = ("127.0.0.1", server.endpoints[0].port)
        proxy = await stack.enter_async_context(ChaosProxy(target, faults, seed=settings.get("seed", 0)))
        started = {"address": f"ws://127.0.0.1:{proxy.address[1]}", "login": ""}
        if tokens is not None:
            started["login"] = await stack.enter_async_context(
                login_service(engine, tokens, lifetime, started["address"])
            )
        print(json.dumps(started), file=ANSWERS)
        commands = Commands(server, proxy)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            print(json.dumps(getattr(commands, command.pop("do"))(**command)), file=ANSWERS)
        await server.stop(0)


asyncio.run(main(json.loads(sys.argv[1])))
