"""`gatelink kick` and `gatelink sessions` as an operator meets them, at a running cluster."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gatelink import CloseCode, ConnectError
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from tests.e2e.cluster.support import KEY, cluster, log_in
from tests.e2e.engines import TIMEOUT, fresh_bucket
from tests.e2e.support import until
from tests.processes import python

CONFIG = """
[engine]
url = "nats://{host}:{port}"
user = "{user}"
password = "env:NATS_PASSWORD"
timeout = 10

[cluster]
name = "{bucket}"
key = "env:KEY"

[gateway]
listen = ["tcp://127.0.0.1:0"]
"""


class Cli:
    """Runs a command with the configuration of a cluster on `nats_server`."""

    def __init__(self, folder: Path, server: NatsServer) -> None:
        self.bucket = fresh_bucket()
        self._folder = folder
        url = urlsplit(server.url)
        assert url.password is not None
        config = CONFIG.format(host=url.hostname, port=url.port, user=url.username, bucket=self.bucket)
        (folder / "cluster.toml").write_text(config)
        self._environment = {"NATS_PASSWORD": url.password, "KEY": KEY.to_hex(), "COLUMNS": "200"}

    async def __call__(self, *words: str) -> tuple[int | None, str]:
        """The exit status, and all that it said."""
        words = ("-m", "gatelink", *words, "--config", "cluster.toml")
        async with python(*words, cwd=self._folder, environment=self._environment, merged=True) as process:
            said = (await process.communicate())[0].decode()
            return process.returncode, said


@pytest.fixture
def cli(tmp_path: Path, nats_server: NatsServer) -> Cli:
    return Cli(tmp_path, nats_server)


async def test_an_operator_sees_and_ends_the_sessions_of_a_user(cli: Cli, nats_server: NatsServer) -> None:
    engine = NatsEngine(nats_server.url, bucket=cli.bucket, timeout=TIMEOUT)
    async with cluster(engine) as town:
        tokens = EngineTokens(engine)
        one, two = await town.gateway(1, tokens=tokens), await town.gateway(2, tokens=tokens)
        token = await tokens.issue(7)
        first, second = await log_in(one, 7, slot=0, token=token), await log_in(two, 7, slot=1, token=token)
        other = await log_in(two, 8, slot=1, token=await tokens.issue(8))

        status, said = await cli("sessions", "7")
        assert status == 0 and [line.partition(", since")[0] for line in said.splitlines()] == [
            "gateway 1, slot 0",
            "gateway 2, slot 1",
        ]
        status, said = await cli("kick", "7", "--slot", "1")
        assert status == 0 and said.startswith("ended: gateway 2, slot 1, since 20") and said.count("\n") == 1
        await second.wait_closed()

        status, said = await cli("kick", "7", "--reason", "enough")
        assert status == 0 and said.startswith("ended: gateway 1, slot 0, since 20")
        await first.wait_closed()
        assert (first.close_code, first.close_reason) == (CloseCode.KICKED, "enough")
        with pytest.raises(ConnectError):
            await log_in(one, 7, token=token)
        assert await cli("sessions", "7") == (0, "no session of uid 7 is open\n")
        assert await cli("kick", "7") == (0, "no session of uid 7 was open\n")
        assert other.close_code is None
        other.close()
        await other.wait_closed()


async def test_what_it_could_not_do_is_said_with_status_1(cli: Cli, nats_server: NatsServer) -> None:
    engine = NatsEngine(nats_server.url, bucket=cli.bucket, timeout=TIMEOUT)
    async with engine:
        status, said = await cli("kick", "7")
        assert status == 1 and "no gateway is there" in said
    assert (await cli("kick", "seven"))[0] == 2
    assert (await cli("kick", "7", "--slot", "256"))[0] == 2


async def test_a_gateway_that_has_not_answered_is_named(cli: Cli, nats_server: NatsServer) -> None:
    engine = NatsEngine(nats_server.url, bucket=cli.bucket, timeout=TIMEOUT)
    async with cluster(engine) as town:
        await town.gateway(1)
        two = await town.gateway(2)
        session = await log_in(two, 7, slot=0)
        assert two._kicks is not None
        subscription = next(iter(two._kicks._serving))
        await subscription.close()  # the one for `gateway.2.kick`
        status, said = await cli("kick", "7")
        assert status == 1 and "no answer of gateway 2" in said
        await session.wait_closed()  # it heard of the kick from the engine
        await until(lambda: not len(two.sessions))


@pytest.mark.parametrize("words", [("sessions", "7"), ("kick", "7"), ("top", "--once"), ("gateway",)], ids="-".join)
async def test_an_engine_that_is_away_is_status_1_and_a_missing_file_78(words: tuple[str, ...], tmp_path: Path) -> None:
    config = CONFIG.format(host="127.0.0.1", port=9, user="gatelink", bucket="away").replace("= 10", "= 0.3")
    (tmp_path / "cluster.toml").write_text(config)
    environment = {"NATS_PASSWORD": KEY.to_hex()[:32], "KEY": KEY.to_hex(), "COLUMNS": "200"}
    for file, status, text in (("cluster.toml", 1, "127.0.0.1:9"), ("missing.toml", 78, "missing.toml")):
        command = ("-m", "gatelink", *words, "--config", file)
        async with python(*command, cwd=tmp_path, environment=environment, merged=True) as process:
            said = (await process.communicate())[0].decode()
            assert process.returncode == status and text in said.splitlines()[-1], said
            assert "Traceback" not in said
