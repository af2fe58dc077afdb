"""Servers are built as the configuration says."""

import base64
import os
from pathlib import Path

import pytest

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.cluster.engines.embedded import EmbeddedEngine
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.routes import OnDeath, Pick, Rules
from gatelink.errors import ConfigError, VerifyError
from gatelink.keys import key_text, login_keys_text
from gatelink.session.renewal import CloseExpired
from gatelink.settings import (
    Settings,
    TokenSettings,
    account_url,
    build_accounts,
    build_engine,
    build_expiry,
    build_listen,
    build_rules,
    cluster_keys,
    environment_of_login,
    load,
    login_keys,
    open_tokens,
    server_keys,
    shifted,
)
from gatelink.wire.keys import ClusterKey, ServerKey


def settings_of(folder: Path, text: str, dev: bool = False) -> Settings:
    (folder / "cluster.toml").write_text(text)
    return load(folder / "cluster.toml", dev=dev)


def secret(folder: Path, name: str, text: str) -> str:
    """A file with a secret, and its reference."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return f"file:{name}"


def test_the_engine_is_the_one_that_the_url_names(tmp_path: Path) -> None:
    assert isinstance(build_engine(settings_of(tmp_path, '[engine]\nurl = "memory"')), MemoryEngine)
    embedded = build_engine(settings_of(tmp_path, ""))
    assert isinstance(embedded, EmbeddedEngine) and embedded.server._given == tmp_path / "data" / "engine"
    nats = build_engine(settings_of(tmp_path, '[engine]\nurl = "nats://a:1, tls://b:2"'))
    assert isinstance(nats, NatsEngine) and nats.urls == ("nats://a:1", "tls://b:2")


def test_the_engine_gets_its_user_and_password(tmp_path: Path) -> None:
    reference = secret(tmp_path, "nats", "5ec4e7")
    text = f'[engine]\nurl = "nats://a:1,nats://b:2"\nuser = "me"\npassword = "{reference}"'
    engine = build_engine(settings_of(tmp_path, text))
    assert isinstance(engine, NatsEngine)
    assert engine.urls == ("nats://me:5ec4e7@a:1", "nats://me:5ec4e7@b:2")
    secret(tmp_path, "nats", "5ec/4e7 %é")
    engine = build_engine(settings_of(tmp_path, text.replace('"me"', '"m@e"')))
    assert isinstance(engine, NatsEngine)
    assert engine.urls[0] == "nats://m%40e:5ec%2F4e7%20%25%C3%A9@a:1"


async def test_tokens_of_the_engine_have_the_configured_times(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[tokens]\nsingle_use = true\nlifetime = 100\nfirst_use = 10")
    async with MemoryEngine() as engine, open_tokens(settings, engine, issues=True) as tokens:
        assert isinstance(tokens, EngineTokens)
        assert (tokens._lifetime, tokens._first_use, tokens._single_use) == (100, 10, True)


async def test_signed_tokens_are_checked_without_the_private_key(tmp_path: Path) -> None:
    reference = secret(tmp_path, "signing", "01" * 32)
    text = f'[tokens]\nkind = "signed"\naudience = "game"\nsigning_keys = ["{reference}"]\n'
    issuing = settings_of(tmp_path, text)
    async with MemoryEngine() as engine, open_tokens(issuing, engine, issues=True) as login:
        assert isinstance(login, SignedTokens)
        token = await login.issue(7)
        [public] = login._keys.values()
        x = public.as_dict()["x"]
        assert isinstance(x, str)
        public_hex = base64.urlsafe_b64decode(x + "==").hex()
        (tmp_path / "signing").unlink()
        checking = settings_of(tmp_path, text + f'public_keys = ["{public_hex}"]')
        async with open_tokens(checking, engine, issues=False) as gateway:
            assert (await gateway.verify(token.encode(), 7, 0, "")).uid == 7
        other = settings_of(tmp_path, text.replace("game", "other") + f'public_keys = ["{public_hex}"]')
        async with open_tokens(other, engine, issues=False) as gateway:
            with pytest.raises(VerifyError, match="audience"):
                await gateway.verify(token.encode(), 7, 0, "")
        with pytest.raises(ConfigError, match=r"signing_keys\[0\]: file:signing is not there, or empty; set it"):
            async with open_tokens(checking, engine, issues=True):
                pass


async def test_a_signing_key_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    reference = secret(tmp_path, "signing", "5ec4e7")
    settings = settings_of(tmp_path, f'[tokens]\nkind = "signed"\nsigning_keys = ["{reference}"]')
    with pytest.raises(ConfigError, match=r"cluster\.toml:3: tokens\.signing_keys\[0\]: file:signing is not") as caught:
        async with MemoryEngine() as engine, open_tokens(settings, engine, issues=True):
            pass
    assert "5ec4e7" not in str(caught.value)


def test_keys_are_files_that_gatelink_keys_made_or_their_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, server = ClusterKey.generate(), ServerKey.generate()
    secret(tmp_path, "cluster", key_text(cluster))
    secret(tmp_path, "server", key_text(server))
    monkeypatch.setenv("GATELINK_TEST_KEY", cluster.to_hex())
    text = '[cluster]\nkey = "env:GATELINK_TEST_KEY"\nolder_keys = ["file:cluster"]\n[gateway]\nkeys = ["file:server"]'
    settings = settings_of(tmp_path, text)
    assert [key.psk for key in cluster_keys(settings)] == [cluster.psk, cluster.psk]
    assert [key.public for key in server_keys(settings)] == [server.public]
    wrong = settings_of(tmp_path, '[cluster]\nkey = "file:server"')
    with pytest.raises(
        ConfigError, match=r"cluster\.toml:2: cluster\.key: file:server is a ServerKey, not a ClusterKey"
    ):
        cluster_keys(wrong)


def test_with_dev_nothing_needs_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_DEV_SECRET", "seed")
    settings = settings_of(tmp_path, '[gateway]\nkeys = ["file:server"]', dev=True)
    assert len(cluster_keys(settings)) == len(server_keys(settings)) == 1
    again = settings_of(tmp_path, '[gateway]\nkeys = ["file:server"]', dev=True)
    assert cluster_keys(settings)[0].psk == cluster_keys(again)[0].psk


def test_the_database_gets_its_password(tmp_path: Path) -> None:
    reference = secret(tmp_path, "database", "5e/c:4@e7")
    text = f'[accounts]\nurl = "postgresql://me@h:5/db"\npassword = "{reference}"'
    assert account_url(settings_of(tmp_path, text).accounts) == "postgresql://me:5e%2Fc%3A4%40e7@h:5/db"


async def test_accounts_are_where_the_configuration_says(tmp_path: Path) -> None:
    text = '[accounts]\nurl = "sqlite:///users.db"\nfirst_uid = 500\n[accounts.argon2]\nmemory_kib = 8\ntime_cost = 1'
    async with build_accounts(settings_of(tmp_path, text).accounts) as accounts:
        assert (await accounts.create("ada", "correct horse")).uid == 500
    assert (tmp_path / "users.db").exists()


def test_each_gateway_process_has_ports_of_its_own(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        '[gateway]\ncount = 2\nlisten = ["tcp://h:7000", "tcp://[::1]:0", '
        '{endpoint = "tls://h:7443", certificate = "c", proxies = ["10.0.0.0/8"]}]',
    )
    assert settings.gateway is not None
    listens = build_listen(settings.gateway, 1)
    assert [each.endpoint for each in listens] == ["tcp://h:7001", "tcp://[::1]:0", "tls://h:7444"]
    assert (listens[2].certificate, listens[2].key, listens[2].proxies) == (f"{tmp_path}/c", None, ("10.0.0.0/8",))
    assert shifted("unix:///run/x", 0) == "unix:///run/x"
    with pytest.raises(ConfigError, match="over 65535"):
        shifted("tcp://h:65535", 1)


def test_rules_are_by_server_type(tmp_path: Path) -> None:
    service = '[services.{}]\ntype = {}\nrun = "a:b"\n{}\n'
    text = service.format("a", 11, "") + service.format(
        "b", 12, 'pick = "rendezvous"\non_death = "hold"\nhold_seconds = 9'
    )
    assert build_rules(settings_of(tmp_path, text)) == {
        11: Rules(),
        12: Rules(pick=Pick.RENDEZVOUS, on_death=OnDeath.HOLD, hold_seconds=9),
    }


CLUSTER = 'key = "env:CLUSTER_KEY"\nolder_keys = ["env:OLDER_KEY"]\n'


def test_a_login_service_has_its_own_keys_or_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATELINK_LOGIN_KEY", raising=False)
    monkeypatch.setenv("GATELINK_CLUSTER_KEY", "02" * 32)
    with pytest.raises(ConfigError, match=r"login.key: env:GATELINK_LOGIN_KEY is not set.*gatelink keys login"):
        login_keys(settings_of(tmp_path, "[login]\n"))
    monkeypatch.setenv("GATELINK_LOGIN_KEY", "cluster-key " + "5e" * 32)
    with pytest.raises(ConfigError, match="no login keys") as refused:
        login_keys(settings_of(tmp_path, "[login]\n"))
    assert "5e5e" not in str(refused.value)
    monkeypatch.setenv("GATELINK_LOGIN_KEY", login_keys_text([ClusterKey(bytes(32)), ClusterKey(b"\1" * 32)]))
    found = login_keys(settings_of(tmp_path, "[login]\n"))
    assert [key.key_id for key in found] == [ClusterKey(bytes(32)).key_id, ClusterKey(b"\1" * 32).key_id]


def test_a_login_service_for_given_gateways_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATELINK_LOGIN_KEY", raising=False)
    server = '[[login.servers]]\nname = "play"\nid = 1\naddresses = ["tcp://play.example.com:7000"]\n'
    assert login_keys(settings_of(tmp_path, server)) == []


def test_in_development_the_login_keys_are_those_of_the_made_up_cluster_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GATELINK_LOGIN_KEY", "GATELINK_CLUSTER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATELINK_DEV_SECRET", "11" * 32)
    settings = settings_of(tmp_path, "[login]\n", dev=True)
    assert [key.key_id for key in login_keys(settings)] == [key.key_id for key in cluster_keys(settings)]


def test_up_gives_the_login_service_its_keys_and_never_the_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATELINK_LOGIN_KEY", raising=False)
    monkeypatch.setenv("CLUSTER_KEY", "02" * 32)
    monkeypatch.setenv("OLDER_KEY", key_text(ClusterKey(b"\3" * 32)))
    settings = settings_of(tmp_path, f"[login]\n[cluster]\n{CLUSTER}")
    given = dict(os.environ)
    found = environment_of_login(settings, given)
    assert set(given) - set(found) == {"CLUSTER_KEY", "OLDER_KEY"}
    assert set(found) - set(given) == {"GATELINK_LOGIN_KEY"}
    assert all("02" * 32 not in value and "03" * 32 not in value for value in found.values())
    monkeypatch.setenv("GATELINK_LOGIN_KEY", found["GATELINK_LOGIN_KEY"])
    assert [key.key_id for key in login_keys(settings)] == [key.key_id for key in cluster_keys(settings)]
    again = environment_of_login(settings, dict(os.environ, GATELINK_LOGIN_KEY="login-key of mine"))
    assert again["GATELINK_LOGIN_KEY"] == "login-key of mine", "one that was given is left as it is"


def test_the_policy_at_expiry_is_ignore_unless_the_file_says_close() -> None:
    assert build_expiry(Settings()) is None
    tokens = TokenSettings(at_expiry="close", expiry_warning=5.0, close_base_clients=True)
    assert build_expiry(Settings(tokens=tokens)) == CloseExpired(warn=5.0, base_clients=True)
