"""A login service as a configuration describes it, alone or in a cluster."""

from pathlib import Path

import pytest

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import Load, Registry, ServerInfo, State
from gatelink.errors import ConfigError
from gatelink.keys import login_keys_text
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.from_settings import open_login
from gatelink.settings import load
from gatelink.wire.keys import ClusterKey
from tests import issuer
from tests.e2e.support import until

BASE = """
[engine]
url = "memory"
[accounts]
url = "sqlite:///users.db"
argon2 = {memory_kib = 8, time_cost = 1}
"""


async def test_it_has_the_methods_limits_and_gateways_that_are_configured(tmp_path: Path) -> None:
    key = issuer.new_key("ES256")
    (tmp_path / "jwks.json").write_bytes(issuer.jwks(key))
    text = f"""{BASE}
[login]
listen = "http://127.0.0.1:0"
methods = ["oidc"]
oidc = {{issuer = "{issuer.NAME}", audience = "{issuer.AUDIENCE}", jwks = "jwks.json"}}
limits = {{max_body = 9000, exempt = [], network = {{free = 2, recovery = 100}}}}
[[login.servers]]
name = "play"
id = 3
addresses = ["tcp://play.example.com:7000"]
public_key = "{"ab" * 32}"
[tokens]
lifetime = 77
"""
    (tmp_path / "cluster.toml").write_text(text)
    settings = load(tmp_path / "cluster.toml")
    async with MemoryEngine() as engine, open_login(settings, engine, admin="127.0.0.1:0") as service:
        assert service.limits.max_body == 9_000 and service.admin_port
        async with LoginClient(service.url) as client:
            for _ in range(2):
                reply = await client.oidc(issuer.sign(key, "ES256"))
            assert reply.addresses == {"tcp": "tcp://play.example.com:7000"} and reply.public_key == "ab" * 32
            assert 70 < reply.expires_at - service.logins._clock() <= 77
            with pytest.raises(LoginFailed, match="429"):
                await client.oidc(issuer.sign(key, "ES256"))
            with pytest.raises(LoginFailed, match="404"):
                await client.login("anna", "correct horse")
            with pytest.raises(LoginFailed, match="404"):
                await client.register("anna", "correct horse")


def gateway(id: int, sessions: int, state: State = State.UP) -> ServerInfo:
    outer = (f"tcp://g{id}.example.com:7000",)
    return ServerInfo(id=id, type=GATEWAY, name=f"g{id}", outer=outer, load=Load(sessions=sessions), state=state)


async def test_in_a_cluster_players_go_to_the_gateways_that_are_up(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(BASE + '[login]\nlisten = "http://127.0.0.1:0"\n')
    settings = load(tmp_path / "cluster.toml")
    async with (
        MemoryEngine() as engine,
        open_login(settings, engine) as service,
        LoginClient(service.url) as client,
    ):
        with pytest.raises(LoginFailed) as failed:
            await client.register("anna", "correct horse")
        assert failed.value.code == "no-gateway"
        members = [Registry(engine) for _ in range(3)]
        for member, info in zip(members, (gateway(1, 0, State.DRAINING), gateway(2, 8), gateway(3, 5)), strict=True):
            await member.register(info)
        await until(lambda: len(service.logins.gateways.all()) == 3)
        seen = [(await client.login("anna", "correct horse")).addresses["tcp"] for _ in range(8)]
        assert seen[0] == "tcp://g3.example.com:7000", "the one with fewer sessions"
        assert set(seen) == {"tcp://g3.example.com:7000", "tcp://g2.example.com:7000"}, "but not everybody at once"
        assert [server.open for server in await client.servers()] == [False, True, True]
        for member in members:
            await member.close()
        await until(lambda: not service.logins.gateways.all())
        with pytest.raises(LoginFailed, match="503"):
            await client.login("anna", "correct horse")


async def test_without_its_section_there_is_no_login(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(BASE)
    async with MemoryEngine() as engine:
        with pytest.raises(ConfigError, match=r"no \[login\]"):
            async with open_login(load(tmp_path / "cluster.toml"), engine):
                pass


async def test_with_a_login_key_players_go_only_to_gateways_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ClusterKey.generate()
    monkeypatch.setenv("GATELINK_LOGIN_KEY", login_keys_text([key]))
    (tmp_path / "cluster.toml").write_text(BASE + '[login]\nlisten = "http://127.0.0.1:0"\n')
    async with (
        MemoryEngine() as engine,
        open_login(load(tmp_path / "cluster.toml"), engine) as service,
        LoginClient(service.url) as client,
    ):
        stranger = Registry(engine)
        await stranger.register(gateway(1, 0))
        await until(lambda: engine.stats.not_authentic["registry"] > 0)
        with pytest.raises(LoginFailed, match="503"):
            await client.register("anna", "correct horse")
        member = Membership(engine=engine, keys=[key], id=2)
        real = Registry(member.authentic_engine)
        await real.register(gateway(2, 100))
        await until(lambda: bool(service.logins.gateways.all()))
        reply = await client.login("anna", "correct horse")
        assert reply.addresses == {"tcp": "tcp://g2.example.com:7000"}
        tokens = EngineTokens(member.authentic_engine)
        assert (await tokens.verify(reply.token.encode(), reply.uid, 0, "")).uid == reply.uid
        for each in (stranger, real):
            await each.close()
