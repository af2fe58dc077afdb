"""A nats-server with deploy/nats/nats.conf: each kind of process can do its work there, and no more than that."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from examples.listeners import certificate
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engine_keys import LoginKey
from gatelink.cluster.engines.embedded import find_program
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.registry import Registry
from gatelink.cluster.routes import Rules
from gatelink.errors import RequestFailed
from gatelink.login.gateways import RegistryGateways
from gatelink.login.limits import LoginLimits
from gatelink.login.throttle import Throttle
from tests.e2e.cluster.support import CATALOG, KEY, LOBBY, Ask, Client, Recorder, Town, log_in
from tests.e2e.support import TCP, leave, until
from tests.e2e.test_engine_start import read_ports

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nats" / "nats.conf"
USERS = ("gateway", "service", "login", "operator")
LATE = 3.0

NewEngine = Callable[[str], NatsEngine]


@asynccontextmanager
async def locked_nats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NewEngine]:
    """Makes an engine, not started, for a user of a nats-server with that file."""
    certificate.make(tmp_path)
    text = CONFIG.read_text()
    for there, here in (
        ("0.0.0.0:4222", "127.0.0.1:-1"),
        ("/etc/nats/cert.pem", f"{tmp_path}/certificate.pem"),
        ("/etc/nats/key.pem", f"{tmp_path}/key.pem"),
        ("/var/lib/nats", f"{tmp_path}/store"),
    ):
        assert there in text
        text = text.replace(there, here)
    (tmp_path / "nats.conf").write_text(text + f'ports_file_dir: "{tmp_path}"\n')
    passwords = {f"{user.upper()}_PASSWORD": f"p{index}{os.urandom(8).hex()}" for index, user in enumerate(USERS)}
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    command = [str(find_program()), "-c", str(tmp_path / "nats.conf")]
    environment = {**os.environ, **passwords}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: read_ports(tmp_path))
        port = int(read_ports(tmp_path).partition('"nats"')[2].split(":")[-1].split('"')[0])

        def engine(user: str) -> NatsEngine:
            return NatsEngine(f"tls://{user}:{passwords[f'{user.upper()}_PASSWORD']}@127.0.0.1:{port}", timeout=LATE)

        yield engine
    finally:
        process.kill()
        await process.wait()


async def test_a_cluster_works_with_a_user_for_each_kind_of_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            engine_of = await stack.enter_async_context(locked_nats(tmp_path, monkeypatch))
            at_gateway, at_service, at_login = [
                await stack.enter_async_context(engine_of(user)) for user in ("gateway", "service", "login")
            ]
            town = Town(at_gateway, stack)
            member = town.member(1)
            tokens = EngineTokens(member.authentic_engine)
            rules = {LOBBY: Rules()}
            gateway = await town.start(Gateway(TCP, member=member, tokens=tokens, catalog=CATALOG, rules=rules))
            lobby = await town.start(Recorder("lobby", LOBBY, member=town.member(20, engine=at_service)))
            login = AuthenticEngine(at_login, [LoginKey.of(KEY).engine_key])
            registry = Registry(login)
            await registry.start()
            stack.push_async_callback(registry.close)
            await until(lambda: [each.open for each in RegistryGateways(registry, login.now).all()] == [True])
            attempt = await Throttle(login, LoginLimits(exempt=())).login("anna", "192.0.2.1")
            await attempt.failed()
            await attempt.succeeded()
            client = Client()
            token = await EngineTokens(login).issue(7, only=True)
            client.session = await log_in(gateway, 7, token=token, handlers=client.handlers)
            await client.ask(1)
            assert await lobby.sessions.push(7, Ask(2)) is not False
            await until(lambda: 2 in client.heard)
            await EngineTokens(login).revoke(token)
            await gateway.cluster.publish("news", Ask(3))
            await leave(client.session)
    assert not [line for line in logs if "permission" in str(line).lower()]


async def denied(work: Any) -> None:
    with pytest.raises((EngineUnavailable, RequestFailed)):
        await work


async def test_a_login_service_can_not_write_what_belongs_to_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with locked_nats(tmp_path, monkeypatch) as engine_of, engine_of("operator") as operator:
        await operator.put("servers.1", b"gateway 1", 600)
        await operator.put("players.7.0", b"place", 600)
        async with engine_of("login") as login:
            await asyncio.gather(
                denied(login.put("servers.1", b"forged", 600)),
                denied(login.create("servers.2", b"forged", 600)),
                denied(login.delete("servers.1")),
                denied(login.put("players.7.0", b"forged", 600)),
                denied(login.put("epochs.base", b"forged", 600)),
                denied(login.put("kicks.7.all", b"forged", 600)),
                denied(login.request("gateway.1.replace", b"", LATE)),
                denied(login.request("call.lobby", b"", LATE)),
            )
            await login.put("tokens.ab", b"of its own", 600)
        for key, value in (("servers.1", b"gateway 1"), ("players.7.0", b"place")):
            entry = await operator.get(key)
            assert entry is not None and entry.value == value
        assert await operator.get("servers.2") is None


async def test_a_service_can_not_write_tokens_or_places_or_counts_of_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        locked_nats(tmp_path, monkeypatch) as engine_of,
        engine_of("operator") as operator,
        engine_of("service") as service,
    ):
        await asyncio.gather(
            denied(service.put("tokens.ab", b"forged", 600)),
            denied(service.put("user-tokens.7", b"forged", 600)),
            denied(service.put("players.7.0", b"forged", 600)),
            denied(service.put("logins.pair.x", b"forged", 600)),
        )
        for key in ("tokens.ab", "user-tokens.7", "players.7.0", "logins.pair.x"):
            assert await operator.get(key) is None
