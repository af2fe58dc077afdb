"""A cluster of three nats-servers with JetStream: gatelink's keys outlive any one of them."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from examples.demo import reserved_ports
from gatelink.cluster.engine import EngineUnavailable, Entry
from gatelink.cluster.engines.embedded import find_program
from gatelink.cluster.engines.nats import NatsEngine
from tests.e2e.engines import fresh_bucket
from tests.e2e.support import until
from tests.support import MS

PASSWORD = "of-this-test-alone"
STARTING = 30_000 * MS
TTL = 60.0


class Node:
    """One nats-server of a cluster, as docs/many-machines.md configures it."""

    def __init__(self, name: str, port: int, own: int, others: list[int], folder: Path) -> None:
        self.name = name
        self.url = f"nats://gatelink:{PASSWORD}@127.0.0.1:{port}"
        self._config = folder / f"{name}.conf"
        routes = ", ".join(f'"nats://route:{PASSWORD}@127.0.0.1:{other}"' for other in others)
        self._config.write_text(
            f'server_name: "{name}"\n'
            f'listen: "127.0.0.1:{port}"\n'
            f'authorization {{ user: "gatelink", password: "{PASSWORD}" }}\n'
            f"jetstream {{ store_dir: {json.dumps(str(folder / name))}, max_file_store: 64MB }}\n"
            f'cluster {{ name: "test", listen: "127.0.0.1:{own}", routes: [{routes}], no_advertise: true,\n'
            f'  authorization {{ user: "route", password: "{PASSWORD}" }} }}\n'
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            str(find_program()), "-c", str(self._config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def cluster(folder: Path, running: int = 3) -> AsyncIterator[dict[str, Node]]:
    """Three nodes, of which the first `running` have been started."""
    with ExitStack() as held:
        ports, routes = ([held.enter_context(reserved_ports()) for _ in range(3)] for _ in range(2))
        nodes = {
            f"n{i}": Node(f"n{i}", ports[i], routes[i], routes[:i] + routes[i + 1 :], folder) for i in range(len(ports))
        }
        try:
            for node in list(nodes.values())[:running]:
                await node.start()
            yield nodes
        finally:
            for node in nodes.values():
                await node.kill()


async def started(engine: NatsEngine) -> None:
    """Start it once the cluster has elected a leader, and all of its servers are there."""
    async with asyncio.timeout(STARTING):
        while await refusal(engine):
            pass


async def refusal(engine: NatsEngine) -> str:
    """Why the cluster can't be used yet; empty if it can."""
    try:
        await engine.start()
    except EngineUnavailable as error:
        return str(error)
    return ""


async def leader(engine: NatsEngine, bucket: str) -> str:
    """The node that leads the bucket's stream."""
    answer = await engine._ask(f"$JS.API.STREAM.INFO.KV_{bucket}")
    return str(json.loads(answer.data)["cluster"]["leader"])


async def test_a_cluster_that_is_not_all_there_yet_is_no_fault_of_the_settings(tmp_path: Path) -> None:
    async with cluster(tmp_path, running=2) as nodes:
        engine = NatsEngine([nodes["n0"].url], bucket=fresh_bucket(), timeout=1_000 * MS, replicas=3)
        async with asyncio.timeout(STARTING):
            while "no suitable peers" not in await refusal(engine):
                pass
        await nodes["n2"].start()
        await started(engine)
        await engine.close()


async def test_without_a_majority_health_says_so_and_all_comes_back_by_itself(tmp_path: Path) -> None:
    """Two of three nodes die: the third is connected, and its bucket takes no writes."""
    bucket = fresh_bucket()
    async with cluster(tmp_path) as nodes:
        engine = NatsEngine([nodes["n0"].url], bucket=bucket, timeout=1_000 * MS, replicas=3)
        await started(engine)
        try:
            back: list[None] = []
            engine.when_back.add(lambda: back.append(None))
            await until(lambda: engine.is_available)
            for name in ("n1", "n2"):
                await nodes[name].kill()
            await until(lambda: not engine.is_available)
            del back[:]
            with pytest.raises(EngineUnavailable):
                await engine.put("k", b"1", TTL)
            for name in ("n1", "n2"):
                await nodes[name].start()
            await until(lambda: engine.is_available and back)
            engine._patience = STARTING  # what has just come back may be slow, and hold another election
            await engine.put("k", b"2", TTL)
        finally:
            await engine.close()


async def test_keys_and_watches_go_on_when_the_leader_of_three_dies(tmp_path: Path) -> None:
    bucket = fresh_bucket()
    async with cluster(tmp_path) as nodes:
        urls = [node.url for node in nodes.values()]
        first, second = (NatsEngine(urls, bucket=bucket, timeout=20_000 * MS, replicas=3) for _ in range(2))
        await started(first)
        async with second, second.watch("players") as watch:
            try:
                before = await first.put("players.1", b"before", TTL)
                assert (await anext(aiter(watch))).value == b"before"

                lost = await leader(first, bucket)
                await nodes[lost].kill()

                after = await written(first, "players.1", b"after", before)
                entry = await first.get("players.1")
                assert entry is not None and entry.value == b"after" and entry.revision == after
                async with asyncio.timeout(STARTING):
                    change = await anext(aiter(watch))
                assert (change.key, change.value) == ("players.1", b"after")
                assert await leader(first, bucket) not in ("", lost)
            finally:
                await first.close()


async def written(engine: NatsEngine, key: str, value: bytes, revision: int) -> int:
    """Once the others have elected a leader; a call that was under way when the connection broke is made again."""
    while True:
        entry = await read(engine, key)
        if entry.value == value:
            return entry.revision
        assert entry.revision == revision, "a write that was acknowledged is lost"
        try:
            return await engine.update(key, value, TTL, entry.revision)
        except EngineUnavailable:
            pass


async def read(engine: NatsEngine, key: str) -> Entry:
    while True:
        try:
            entry = await engine.get(key)
        except EngineUnavailable:
            continue
        assert entry is not None
        return entry
