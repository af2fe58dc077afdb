"""What tests of the login service share: one that runs, and HTTP without a client's help."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gatelink.auth.accounts import Accounts
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Guest, LoginMethod, Password
from gatelink.auth.passwords import PasswordHashing
from gatelink.cluster.engine import Engine
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.limits import LoginLimits, Rule
from gatelink.login.messages import Problem
from gatelink.login.service import LoginService
from tests.support import MS, TEST_TIMEOUT

ANNA = {"user": "anna", "password": "correct horse"}
GATEWAY = GatewayInfo(
    id=1,
    name="play",
    addresses=("tcp://play.example.com:7000", "tls://play.example.com:7443", "tcp://[2001:db8::1]:7000"),
    public_key="ab" * 32,
)
PLENTY = Rule(free=100_000, recovery=1.0)
LIFETIME = 600.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that only speak plain HTTP: loading the trusted certificates for each takes longer than a login."""


def fast_passwords(**settings: Any) -> PasswordHashing:
    """argon2id that costs next to nothing."""
    return PasswordHashing(**{"memory_kib": 8, "passes": 1, "threads": 1, **settings})


@asynccontextmanager
async def new_accounts(folder: Path, **settings: Any) -> AsyncIterator[Accounts]:
    """Accounts in a real file."""
    settings.setdefault("passwords", fast_passwords())
    async with Accounts(f"sqlite:///{folder}/accounts.db", **settings) as accounts:
        yield accounts


def new_service(engine: Engine, accounts: Accounts, /, **settings: Any) -> LoginService:
    """A login service on a free port, not started."""
    methods: Mapping[str, LoginMethod] = {"password": Password(accounts), "guest": Guest(accounts)}
    defaults: dict[str, Any] = {
        "tokens": EngineTokens(engine, lifetime=LIFETIME),
        "lifetime": LIFETIME,
        "methods": methods,
        "accounts": accounts,
        "gateways": StaticGateways([GATEWAY]),
    }
    return LoginService(engine=engine, **{"listen": "http://127.0.0.1:0", **defaults, **settings})


@asynccontextmanager
async def serving_login(folder: Path, **settings: Any) -> AsyncIterator[LoginService]:
    """One that runs alone, on an engine in memory."""
    async with MemoryEngine() as engine, new_accounts(folder) as accounts:
        async with new_service(engine, accounts, **settings) as service:
            yield service


@asynccontextmanager
async def asking(service: LoginService, address: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client; with an address, as a proxy that asks for it."""
    headers = {"x-forwarded-for": address} if address else {}
    async with httpx.AsyncClient(
        base_url=service.url, headers=headers, trust_env=False, timeout=TEST_TIMEOUT, verify=NO_TLS
    ) as client:
        yield client


def limits(**changed: Any) -> LoginLimits:
    return LoginLimits(**changed)


def problem_in(response: httpx.Response, status: int, code: str) -> Problem:
    """The problem in `response`, which must be that one."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    found = msgspec.json.decode(response.content, type=Problem)
    assert (response.status_code, found.status, found.code) == (status, status, code)
    assert found.type == "about:blank" and found.title and found.detail
    assert "Traceback" not in response.text and ".py" not in response.text
    return found


class RawHttp:
    """A connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, service: LoginService) -> "RawHttp":
        url = httpx.URL(service.url)
        return cls(*await asyncio.open_connection(url.host, url.port))

    @asynccontextmanager
    async def trickling(self, piece: bytes) -> AsyncIterator[None]:
        """It sends `piece` every 10 ms, until the end or a reset."""

        async def trickle() -> None:
            while True:
                await self.send(piece)
                await asyncio.sleep(10 * MS)

        task = asyncio.create_task(trickle())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def rest(self) -> bytes:
        """What comes until the service closes the connection."""
        found = b""
        try:
            while data := await self.reader.read(65_536):
                found += data
        except ConnectionResetError:
            pass
        return found

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


def post(path: str, body: bytes, **headers: str) -> bytes:
    """A POST request, as bytes."""
    fields = {"host": "login", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
