"""A login service with gateways behind proxies, and clients of the whole: what the tests of `connect_cluster` use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gatelink import (
    Backoff,
    Catalog,
    ClusterClient,
    Handlers,
    Request,
    Server,
    ServerKey,
    Session,
    connect_cluster,
)
from gatelink.auth.accounts import Accounts
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, least_loaded
from gatelink.login.service import LoginService
from gatelink.testing import ChaosProxy
from tests.e2e.login.support import fast_passwords, new_service
from tests.e2e.support import TCP
from tests.support import MS

CATALOG = Catalog()
KEY = ServerKey.generate()
DEVICE = "device-0123456789abcdef"
SOON = Backoff(first=10 * MS, most=50 * MS, attempts=500)


@CATALOG.message(12_001)
class Note(msgspec.Struct):
    """Noted by the server; comes back as it was sent."""

    n: int


@CATALOG.message(12_003)
class Doubled(msgspec.Struct):
    """The answer to `Double`."""

    n: int


@CATALOG.message(12_002)
class Double(msgspec.Struct, Request[Doubled]):
    """Answered, unless it is 0: then nothing ever comes."""

    n: int


def tokens_of(engine: MemoryEngine, lifetime: float = 600.0) -> EngineTokens:
    return EngineTokens(engine, lifetime=lifetime, first_use=min(30.0, lifetime))


class Gate(Server):
    """A gateway in one process, behind a proxy that a test can cut."""

    def __init__(self, engine: MemoryEngine, **settings: Any) -> None:
        tokens = settings.pop("tokens", None) or tokens_of(engine, settings.pop("lifetime", 600.0))
        wanted: dict[str, Any] = {"keys": [KEY], "catalog": CATALOG} | settings
        super().__init__(wanted.pop("listen", TCP), tokens=tokens, **wanted)
        self.notes: list[int] = []
        self.asked = 0
        self.proxy: ChaosProxy

        if self.catalog is not CATALOG:
            return

        @self.on(Note)
        def note(session: Session, message: Note) -> None:
            self.notes.append(message.n)
            session.send(message)

        @self.on(Double)
        async def double(session: Session, message: Double) -> Doubled:
            self.asked += 1
            if not message.n:
                await asyncio.Event().wait()
            return Doubled(2 * message.n)


class Listed:
    """The gateways that a test lists."""

    def __init__(self) -> None:
        self.infos: list[GatewayInfo] = []

    def choose(self, uid: int, transport: str = "") -> GatewayInfo:
        return least_loaded(self.infos, uid, transport)

    def all(self) -> list[GatewayInfo]:
        return self.infos


class Seen:
    """The messages that a client's handlers got, and at which gateway."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.notes: list[int] = []
        self.sessions: list[Session] = []
        self.handlers = handlers = Handlers(CATALOG)
        handlers.on(Note)(lambda session, message: self.notes.append(message.n))
        handlers.on_verified(lambda session: self.hear("verified", session))
        handlers.on_suspended(lambda session: self.hear("suspended", session))
        handlers.on_resumed(lambda session: self.hear("resumed", session))
        handlers.on_restarted(lambda session: self.hear("restarted", session))
        handlers.on_closed(lambda session: self.hear(f"closed {session.close_code:d}", session))

    def hear(self, event: str, session: Session) -> None:
        self.events.append(event)
        self.sessions.append(session)


class Town:
    """A login service, and gateways."""

    def __init__(self, stack: AsyncExitStack, engine: MemoryEngine, accounts: Accounts) -> None:
        self.stack = stack
        self.engine = engine
        self.accounts = accounts
        self.listed = Listed()
        self.gates: list[Gate] = []
        self.login: LoginService
        self.lifetime = 600.0

    async def start_login(self, listen: str = "http://127.0.0.1:0") -> None:
        tokens = tokens_of(self.engine, self.lifetime)
        self.login = new_service(
            self.engine, self.accounts, gateways=self.listed, tokens=tokens, lifetime=self.lifetime, listen=listen
        )
        await self.login.start()

    async def gate(self, load: float = 0.0, **settings: Any) -> Gate:
        gate = Gate(self.engine, **{"lifetime": self.lifetime} | settings)
        await self.stack.enter_async_context(gate)
        gate.proxy = await self.stack.enter_async_context(ChaosProxy((gate.endpoints[0].host, gate.endpoints[0].port)))
        self.gates.append(gate)
        self.listed.infos.append(
            GatewayInfo(
                id=len(self.gates),
                name=f"g{len(self.gates)}",
                addresses=(f"tcp://127.0.0.1:{gate.proxy.address[1]}",),
                public_key=KEY.public.hex() if settings.get("keys") != [] else "",
                load=load,
            )
        )
        return gate

    async def kill(self, gate: Gate, is_listed: bool = False) -> None:
        """Nothing listens there any more, and what was connected is cut."""
        if not is_listed:
            self.listed.infos = [info for info in self.listed.infos if info.id != self.gates.index(gate) + 1]
        await gate.proxy.__aexit__(None, None, None)

    async def client(self, seen: Seen | None = None, **how: Any) -> ClusterClient:
        wanted: dict[str, Any] = {"guest": DEVICE, "reconnect": SOON, "catalog": CATALOG}
        wanted["handlers"] = (seen or Seen()).handlers
        return await connect_cluster(self.login.url, **wanted | how)


@asynccontextmanager
async def town(folder: Path, gates: int = 2, lifetime: float = 600.0, **settings: Any) -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(MemoryEngine())
        accounts = await stack.enter_async_context(
            Accounts(f"sqlite:///{folder}/accounts.db", passwords=fast_passwords())
        )
        town = Town(stack, engine, accounts)
        town.lifetime = lifetime
        await town.start_login()
        for number in range(gates):
            await town.gate(load=float(number), **settings)
        try:
            yield town
        finally:
            await town.login.stop()
