"""Nobody is sent to 0.0.0.0: what clients and servers are told is an address that they can connect to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatelink import StaticTokens
from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine_keys import EngineKey
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.registry import Registry
from gatelink.cluster.service import Service
from gatelink.errors import ConfigError
from gatelink.server import Listen
from gatelink.settings import GatewaySettings, ServiceSettings, StaticServer
from tests.e2e.cluster.support import CATALOG, KEY, LOBBY
from tests.e2e.engines import fresh_bucket
from tests.e2e.support import until
from tests.processes import python

EVERYWHERE = ["tcp://0.0.0.0:0", "tcp://[::]:0", "tls://0.0.0.0:7443"]


def member_of(engine: MemoryEngine, **settings: Any) -> Membership:
    return Membership(engine=engine, keys=(KEY,), id=1, **settings)


def gateway_on(*listen: str | Listen, member: Membership, outer: tuple[str, ...] = ()) -> Gateway:
    return Gateway(*listen, member=member, tokens=StaticTokens(), catalog=CATALOG, outer=outer)


@pytest.mark.parametrize("listen", [*EVERYWHERE, Listen(endpoint="tcp://0.0.0.0:0")])
async def test_a_gateway_on_every_address_starts_only_with_one_that_clients_reach(listen: str | Listen) -> None:
    async with MemoryEngine() as engine:
        with pytest.raises(ConfigError, match=r"none to connect to; give outer, .*--outer or GATELINK_OUTER"):
            await gateway_on(listen, member=member_of(engine)).start()
        with pytest.raises(ConfigError, match="none to connect to"):
            await gateway_on("tcp://127.0.0.1:0", member=member_of(engine), outer=("tcp://0.0.0.0:7000",)).start()
        assert not engine._rows, "nobody heard of it"


async def test_a_gateway_on_every_address_tells_its_outer_one() -> None:
    outer = ("tcp://play.example.com:7000",)
    async with MemoryEngine() as engine:
        gateway = gateway_on("tcp://0.0.0.0:0", member=member_of(engine), outer=outer)
        await gateway.start()
        assert gateway.cluster.me.outer == outer
        await gateway.stop(0)


async def test_the_registry_has_the_addresses_of_websockets() -> None:
    async with MemoryEngine() as engine:
        gateway = gateway_on("tcp://127.0.0.1:0", "ws://127.0.0.1:0", member=member_of(engine))
        await gateway.start()
        tcp, web, _ = map(str, gateway.endpoints)
        assert gateway.cluster.me.outer == (tcp, web) and web.startswith("ws://")
        await gateway.stop(0)
        outer = ("wss://play.example.com:443/gates/1",)
        behind = gateway_on("ws://0.0.0.0:0", member=member_of(engine), outer=outer)
        await behind.start()
        assert behind.cluster.me.outer == outer
        await behind.stop(0)


@pytest.mark.parametrize("inner", ["tcp://0.0.0.0:0", "tcp://[::]:0"])
async def test_a_server_whose_inner_address_is_every_one_needs_one_that_the_others_reach(inner: str) -> None:
    async with MemoryEngine() as engine:
        member = member_of(engine, inner=inner)
        for server in (
            gateway_on("tcp://127.0.0.1:0", member=member),
            Service("lobby", type=LOBBY, catalog=CATALOG, member=member),
        ):
            with pytest.raises(ConfigError, match="none to connect to; give advertise, .*GATELINK_ADVERTISE"):
                await server.start()
        member = member_of(engine, inner=inner, advertise="tcp://10.0.0.4:7500")
        service = Service("lobby", type=LOBBY, catalog=CATALOG, member=member)
        await service.start()
        assert service.cluster.me.inner == "tcp://10.0.0.4:7500"
        await service.stop(0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda address: GatewaySettings(outer=(address,)), "outer"),
        (lambda address: GatewaySettings(advertise=address), "advertise"),
        (lambda address: ServiceSettings(type=12, run="game:lobby", advertise=address), "advertise"),
        (lambda address: StaticServer(name="Europe", id=9, addresses=(address,)), "addresses"),
    ],
)
@pytest.mark.parametrize("address", EVERYWHERE)
def test_what_is_told_is_refused_where_it_is_configured(
    make: Callable[[str], object], field: str, address: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: .*none to connect to"):
        make(address)
    make("tcp://play.example.com:7000")


OPTIONS = {
    "outer": "tcp://play.example.com:7001",
    "advertise": "tcp://10.0.0.4:7501",
    "admin": "127.0.0.1:0",
    "inner": "tcp://127.0.0.1:0",
}
CONFIG = """
[engine]
url = "nats://{place}"
user = "{user}"
password = "env:NATS_PASSWORD"
[cluster]
name = "{bucket}"
key = "env:CLUSTER_KEY"
[gateway]
listen = ["tcp://0.0.0.0:0"]
outer = ["tcp://of.the.file:7000"]
admin = "127.0.0.1:1"
"""


@pytest.mark.parametrize("is_environment", [False, True])
async def test_one_machine_has_its_addresses_by_options_or_the_environment(
    nats_server: NatsServer, tmp_path: Path, is_environment: bool
) -> None:
    who, _, place = nats_server.url.partition("://")[2].rpartition("@")
    user, _, password = who.partition(":")
    bucket = fresh_bucket()
    (tmp_path / "cluster.toml").write_text(CONFIG.format(place=place, user=user, bucket=bucket))
    environment = {"NATS_PASSWORD": password, "CLUSTER_KEY": KEY.psk.hex()}
    arguments = ["-m", "gatelink", "gateway", "--config", "cluster.toml", "--id", "5"]
    for name, value in OPTIONS.items():
        if is_environment:
            environment[f"GATELINK_{name.upper()}"] = value
        else:
            arguments += [f"--{name}", value]
    keys = EngineKey.of(KEY)
    async with (
        NatsEngine(nats_server.url, bucket=bucket) as raw,
        python(*arguments, cwd=tmp_path, environment=environment),
    ):
        registry = Registry(AuthenticEngine(raw, (keys,)))
        await registry.start()
        await until(lambda: 5 in registry.servers)
        info = registry.servers[5]
        assert (info.outer, info.inner) == ((OPTIONS["outer"],), OPTIONS["advertise"])
        assert info.admin.startswith("127.0.0.1:") and not info.admin.endswith(":1")
        await registry.close()
