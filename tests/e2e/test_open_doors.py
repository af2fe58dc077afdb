"""A start warns of ports that every network can reach without encryption or a login."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatelink import Handlers, Listen, Server, StaticTokens
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.net.endpoints import is_everywhere
from gatelink.wire.keys import ClusterKey, ServerKey
from tests.e2e.login.support import new_accounts, new_service
from tests.e2e.support import CATALOG, needs_ipv6


@pytest.mark.parametrize(
    ("host", "everywhere"),
    [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("::1", False), ("10.0.0.4", False), ("localhost", False)],
)
def test_two_addresses_are_all_addresses(host: str, everywhere: bool) -> None:
    assert is_everywhere(host) is everywhere


def warnings_in(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs if line["log_level"] == "warning"]


PLAIN = "players' tokens come in unencrypted from every network"
ADMIN = "the admin port has no login, and every network can reach it"
CLUSTER_KEY = ClusterKey.generate()


@pytest.mark.parametrize(
    ("listen", "settings", "told"),
    [
        ("tcp://0.0.0.0:0", {}, [PLAIN]),
        ("tcp://0.0.0.0:0", {"admin": "0.0.0.0:0"}, [PLAIN, ADMIN]),
        pytest.param("tcp://[::]:0", {"admin": "[::]:0"}, [PLAIN, ADMIN], marks=needs_ipv6),
        ("tcp://0x0:0", {"admin": "0x0:0"}, [PLAIN, ADMIN]),  # a name that the resolver knows
        pytest.param("tcp://[::1]:0", {"admin": "[::1]:0"}, [], marks=needs_ipv6),
        ("tcp://0.0.0.0:0", {"keys": [ServerKey.generate()]}, [PLAIN]),  # plain logins are accepted beside sealed ones
        ("tcp://127.0.0.1:0", {"admin": "127.0.0.1:0"}, []),
        ("tcp://0.0.0.0:0", {"sealed_only": True, "keys": [ServerKey.generate()]}, []),
        (Listen(endpoint="tcp://0.0.0.0:0", proxies=("10.0.0.0/8",)), {}, []),
        (
            Listen(endpoint="tcp://0.0.0.0:0", inner=True, handlers=Handlers(CATALOG)),
            {"id": 1, "cluster_key": CLUSTER_KEY},
            [],
        ),
    ],
)
async def test_a_server_tells_of_what_every_network_can_reach(listen: Any, settings: Any, told: list[str]) -> None:
    with capture_logs() as logs:
        async with Server(listen, tokens=StaticTokens(), catalog=CATALOG, **settings):
            pass
    assert warnings_in(logs) == told
    assert all(line.get("fix") for line in logs if line["log_level"] == "warning")


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_so_does_the_login_service(host: str, told: bool, tmp_path: Path) -> None:
    async with MemoryEngine() as engine, new_accounts(tmp_path) as accounts:
        service = new_service(engine, accounts, admin=f"{host}:0")
        service._where = (host, 0)
        with capture_logs() as logs:
            async with service:
                pass
    assert warnings_in(logs) == ([ADMIN, "passwords come in unencrypted from every network"] if told else [])
