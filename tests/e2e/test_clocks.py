"""Machines whose clocks differ: what expires is decided by the engine's time, and a clock far off is refused."""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens
from gatelink.auth.tokens import IssuedTokens
from gatelink.cluster.directory import Directory
from gatelink.cluster.engine import ClockSkew, Engine
from gatelink.cluster.engines import nats
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import VerifyError
from gatelink.login.limits import LoginLimits
from gatelink.login.throttle import Throttle, TooMany
from tests.e2e.engines import TIMEOUT, fresh_bucket
from tests.e2e.support import until
from tests.processes import ended, python
from tests.unit.auth.test_signed_tokens import KEY

HOUR = 3_600.0
OFF = [-HOUR, -600.0, 600.0, HOUR]


class Machine:
    """An engine of a process whose machine's clock is `ahead`."""

    def __init__(self, server: NatsServer, bucket: str, ahead: float = 0.0, max_skew: float = math.inf) -> None:
        self.engine = NatsEngine(server.url, bucket=bucket, timeout=TIMEOUT, max_skew=max_skew)
        self.ahead = ahead
        self.engine._bucket.clock._wall = lambda: time.time() + self.ahead


@pytest.mark.parametrize("ahead", OFF)
@pytest.mark.parametrize("kind", ["engine", "signed"])
async def test_a_token_is_good_on_a_machine_whose_clock_differs(
    nats_server: NatsServer, ahead: float, kind: str
) -> None:
    def tokens(engine: Engine) -> IssuedTokens:
        return EngineTokens(engine) if kind == "engine" else SignedTokens(engine, keys=[KEY])

    bucket = fresh_bucket()
    here, there = Machine(nats_server, bucket), Machine(nats_server, bucket, ahead)
    async with here.engine, there.engine:
        ours, theirs = tokens(here.engine), tokens(there.engine)

        async def a_moment() -> None:
            """Two machines know the engine's time up to half a round trip each."""
            latest = max(here.engine.now(), there.engine.now())
            await until(lambda: min(here.engine.now(), there.engine.now()) > latest)

        if isinstance(ours, SignedTokens) and isinstance(theirs, SignedTokens):
            async with ours, theirs:
                await both_ways(ours, theirs, a_moment)
        else:
            await both_ways(ours, theirs, a_moment)


async def both_ways(ours: IssuedTokens, theirs: IssuedTokens, a_moment: Callable[[], Awaitable[None]]) -> None:
    for issuer, checker in ((ours, theirs), (theirs, ours)):
        token = (await issuer.issue(7)).encode()
        identity = await checker.verify(token, 7, 0, "192.0.2.1")
        assert identity == await issuer.verify(token, 7, 0, "192.0.2.1"), "both say when it ends"
        await a_moment()
        await checker.revoke_user(7)
        await until_refused(issuer, token)
        await a_moment()
        await checker.verify((await issuer.issue(7)).encode(), 7, 0, "192.0.2.1")  # a revocation ends older tokens only


async def until_refused(tokens: IssuedTokens, token: bytes) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await tokens.verify(token, 7, 0, "192.0.2.1")
            except VerifyError:
                return
            await asyncio.sleep(0)


async def test_a_token_that_is_not_used_in_time_expires_whatever_the_clocks_say(nats_server: NatsServer) -> None:
    bucket = fresh_bucket()
    here, behind = Machine(nats_server, bucket), Machine(nats_server, bucket, -HOUR)
    async with here.engine, behind.engine:
        token = (await EngineTokens(here.engine, first_use=0.2).issue(7)).encode()
        due = here.engine.now() + 0.3
        await until(lambda: behind.engine.now() > due)
        with pytest.raises(VerifyError):
            await EngineTokens(behind.engine).verify(token, 7, 0, "192.0.2.1")


@pytest.mark.parametrize("ahead", OFF)
async def test_limits_count_alike_on_machines_whose_clocks_differ(nats_server: NatsServer, ahead: float) -> None:
    bucket = fresh_bucket()
    here, there = Machine(nats_server, bucket), Machine(nats_server, bucket, ahead)
    limits = LoginLimits()
    async with here.engine, there.engine:
        for first, second in ((here, there), (there, here)):
            one, two = Throttle(first.engine, limits), Throttle(second.engine, limits)
            waits = []
            for throttle in (one, two):
                for _ in range(limits.pair.free + 1):
                    try:
                        await throttle.login(f"ada{first.ahead}", "192.0.2.1")
                    except TooMany as error:
                        waits.append(error.retry_after)
            assert waits and max(waits) <= max(rule.recovery for rule in (limits.pair, limits.network)), waits


async def test_the_newer_login_is_newer_though_its_gateway_is_behind_and_the_engine_was_emptied(
    nats_server: NatsServer,
) -> None:
    bucket = fresh_bucket()
    ahead, here = Machine(nats_server, bucket, HOUR), Machine(nats_server, bucket)
    async with ahead.engine, here.engine:
        older, _ = await Directory(ahead.engine, 1).take_epoch(7, 0)
        await here.engine.delete("players.7.0")
        newer, _ = await Directory(here.engine, 2).take_epoch(7, 0)
        assert newer > older


@pytest.mark.parametrize("ahead", [*OFF, -1.5, 1.5])
async def test_a_clock_far_off_is_refused_at_the_start_with_what_to_do(nats_server: NatsServer, ahead: float) -> None:
    machine = Machine(nats_server, fresh_bucket(), ahead, max_skew=1.0)
    with pytest.raises(
        ClockSkew, match=r"clock is \d+\.\d s (ahead of|behind) the engine's, over 1 s .*NTP"
    ) as refused:
        await machine.engine.start()
    assert ("ahead of" in str(refused.value)) == (ahead > 0)
    machine.ahead = 0.0
    async with machine.engine:  # as its supervisor starts it again
        assert machine.engine.is_available


async def test_a_clock_that_is_set_while_it_runs_is_logged_and_so_is_its_mending(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.05)
    machine = Machine(nats_server, fresh_bucket())
    with structlog.testing.capture_logs() as lines:
        async with machine.engine as engine:
            assert engine.skew == 0.0
            machine.ahead = HOUR
            await until(lambda: any(line["event"] == "this machine's clock is off" for line in lines))
            assert engine.skew == pytest.approx(HOUR, abs=1.0)
            assert engine.is_available, "logins go on: the engine's time decides"
            machine.ahead = 0.0
            await until(lambda: any(line["event"] == "this machine's clock is right again" for line in lines))
    [off] = [line for line in lines if line["event"] == "this machine's clock is off"]
    assert "ahead of the engine's" in off["clock"] and "NTP" in off["fix"]


@pytest.mark.parametrize(("command", "ahead"), [("gateway", HOUR), ("login", -600.0)])
async def test_a_process_with_a_clock_far_off_ends_and_says_so(
    nats_server: NatsServer, tmp_path: Path, command: str, ahead: float
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import time\nreal = time.time\ntime.time = lambda: real() + {ahead}\n")
    url, _, place = nats_server.url.partition("://")[2].rpartition("@")
    user, _, password = url.partition(":")
    config = tmp_path / "cluster.toml"
    config.write_text(
        f'[engine]\nurl = "nats://{place}"\nuser = "{user}"\npassword = "env:NATS_PASSWORD"\n'
        f'[cluster]\nname = "{fresh_bucket()}"\nkey = "env:CLUSTER_KEY"\n'
        '[login]\nlisten = "http://127.0.0.1:0"\n'
        '[gateway]\nlisten = ["tcp://127.0.0.1:0"]\n'
    )
    environment = {"NATS_PASSWORD": password, "CLUSTER_KEY": "ab" * 32, "PYTHONPATH": str(tmp_path)}
    arguments = ("-m", "gatelink", command, "--config", str(config))
    async with python(*arguments, cwd=tmp_path, environment=environment) as process:
        status, _, err = await ended(process)
    assert status == 1, err
    told = re.search(r"clock is ([\d.]+) s (ahead|behind)", err)
    assert told is not None and "engine.max_skew" in err, err
    assert float(told[1]) == pytest.approx(abs(ahead), abs=60.0)  # it includes the time that the engine's answer took
    assert (told[2] == "ahead") is (ahead > 0)
