"""A nats-server that is cut off from its cluster, and stays up: its clients go to the others, and spread again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from examples.demo import reserved_ports
from gatelink.cluster.authentic import AuthenticEngine
from gatelink.cluster.engine import EngineError, NoResponder
from gatelink.cluster.engine_keys import EngineKey
from gatelink.cluster.engines import nats
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.engines.nats_client import place_of
from gatelink.cluster.registry import Registry, ServerInfo
from gatelink.testing import ChaosProxy
from gatelink.wire.keys import ClusterKey
from tests.e2e.engines import fresh_bucket
from tests.e2e.support import until
from tests.e2e.test_nats_cluster import PASSWORD, Node, started
from tests.processes import ended, python
from tests.support import MS

TTL = 60.0
TIMEOUT = 5_000 * MS
CUT = 2  # the node whose routes can be cut


class Cluster:
    """Three nodes; the routes of the last one go through proxies. The other two dial each other without."""

    def __init__(self, nodes: list[Node], routes: list[ChaosProxy]) -> None:
        self.urls = [node.url for node in nodes]
        self.nodes = nodes
        self._routes = routes

    def cut(self) -> None:
        """Cut the last node off from the others: its clients still reach it."""
        for proxy in self._routes:
            proxy.cut_all()
            proxy.drop()

    def heal(self) -> None:
        for proxy in self._routes:
            proxy.restore()
            proxy.cut_all()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        ports, own = ([stack.enter_context(reserved_ports()) for _ in range(3)] for _ in range(2))
        to = [await stack.enter_async_context(ChaosProxy(("127.0.0.1", port))) for port in own]
        nodes = []
        for i in range(3):
            others = [own[j] if CUT not in (i, j) else to[j].address[1] for j in range(3) if j != i]
            node = Node(f"n{i}", ports[i], own[i], others, folder)
            # Nodes tell each other their addresses, too: a route past the proxies would not be cut.
            text = node._config.read_text().replace("no_advertise: true", f'advertise: "127.0.0.1:{to[i].address[1]}"')
            node._config.write_text(text)
            nodes.append(node)
            stack.push_async_callback(node.kill)
            await node.start()
        yield Cluster(nodes, to)


async def at(cluster: Cluster, node: int, bucket: str) -> NatsEngine:
    """An engine whose server is that node."""
    engine = NatsEngine(cluster.urls, bucket=bucket, timeout=TIMEOUT, replicas=3)
    engine._home = cluster.urls[node]
    while True:
        await engine.start()
        assert engine._connection is not None
        if engine._connection.where == place_of(cluster.urls[node]):
            return engine
        await engine.close()


def where(engine: NatsEngine) -> str:
    return engine._connection.where if engine._connection is not None else ""


async def works(engine: NatsEngine) -> bool:
    try:
        await engine.put("k", b"x", TTL)
    except EngineError:
        return False
    return True


async def answered(engine: NatsEngine, data: bytes) -> bytes:
    """The answer, once the servers of NATS know the server of these requests."""
    while True:
        try:
            return await engine.request("echo", data, 5.0)
        except NoResponder:
            await asyncio.sleep(0.05)


async def watches(engine: NatsEngine) -> bool:
    try:
        async with engine.watch("any"):
            return True
    except EngineError:
        return False


async def test_a_process_at_a_node_that_is_cut_off_goes_to_another_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "HOME_INTERVAL", 1.0)
    bucket = fresh_bucket()
    async with cluster(tmp_path) as it, AsyncExitStack() as stack:
        first = NatsEngine([it.urls[CUT]], bucket=bucket, replicas=3)
        await started(first)
        await first.close()
        engine, whole = await at(it, CUT, bucket), await at(it, 0, bucket)
        for each in (engine, whole):
            stack.push_async_callback(each.close)
        heard: list[bytes] = []
        await engine.subscribe("news", heard.append)

        async def answer(data: bytes) -> bytes:
            return data

        await engine.serve("echo", answer)
        watch = await stack.enter_async_context(engine.watch("players"))

        it.cut()
        await until(lambda: not engine.is_available)
        assert where(engine) == place_of(it.urls[CUT]), "it says so before it has found another"
        await until(lambda: engine.is_available)
        assert where(engine) != place_of(it.urls[CUT])
        while not await works(engine):
            pass

        await whole.put("players.1", b"here", TTL)
        assert (await anext(aiter(watch))).value == b"here"
        assert await answered(whole, b"?") == b"?"
        await whole.publish("news", b"1")
        await until(lambda: heard == [b"1"])

        it.heal()
        await until(lambda: where(engine) == place_of(it.urls[CUT]))
        for each in (engine, whole):
            while not await works(each):  # the node that is back may cause an election
                pass
        assert await answered(whole, b"!") == b"!"
        while b"2" not in heard:
            await whole.publish("news", b"2")
            await asyncio.sleep(0.05)


async def test_a_move_back_fails_no_call_that_is_under_way_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cut: a process that is not at its own node goes there, while requests and writes go on."""
    monkeypatch.setattr(nats, "HOME_INTERVAL", 0.2)
    monkeypatch.setattr(nats, "ALIVE_INTERVAL", 0.2)
    bucket = fresh_bucket()
    async with cluster(tmp_path) as it, AsyncExitStack() as stack:
        first = NatsEngine([it.urls[0]], bucket=bucket, replicas=3)
        await started(first)
        await first.close()
        engine, other = await at(it, 0, bucket), await at(it, 1, bucket)
        for each in (engine, other):
            stack.push_async_callback(each.close)
        handled: list[bytes] = []

        async def answer(data: bytes) -> bytes:
            handled.append(data)
            await asyncio.sleep(0.01)
            return data

        await engine.serve("echo", answer)
        await answered(other, b"first")
        handled.clear()
        moves = 0
        for number in range(400):
            engine._home = it.urls[number // 100 % 3]
            before = where(engine)
            asked = b"%d" % number
            results = await asyncio.gather(other.request("echo", asked, 10.0), engine.put("k", asked, TTL))
            assert results[0] == asked
            moves += where(engine) != before
        assert moves >= 2
        assert handled == [b"%d" % number for number in range(400)]


CONFIG = """
[engine]
url = "{urls}"
user = "gatelink"
password = "env:NATS_PASSWORD"
timeout = 5.0
replicas = 3
[accounts]
url = "postgresql://gatelink@10.0.0.5/accounts"
[login]
[cluster]
name = "{bucket}"
key = "env:CLUSTER_KEY"
[gateway]
"""


async def test_top_and_config_check_work_though_a_node_is_cut_off(tmp_path: Path) -> None:
    """It is one of two in the configuration; the quorum is at the others."""
    bucket, key = fresh_bucket(), ClusterKey.generate()
    async with cluster(tmp_path) as it, AsyncExitStack() as stack:
        engine = NatsEngine(it.urls[:CUT], bucket=bucket, timeout=TIMEOUT, replicas=3)
        await started(engine)
        stack.push_async_callback(engine.close)
        registry = Registry(AuthenticEngine(engine, (EngineKey.of(key),)))
        await registry.register(ServerInfo(id=7, type=1, name="gateway", started_at=engine.now()))
        stack.push_async_callback(registry.close)
        it.cut()
        while not await works(engine) or not await watches(engine):  # until the others have their leaders
            pass
        bare = ",".join(f"nats://{place_of(url)}" for url in (it.urls[CUT], it.urls[0]))
        (tmp_path / "cluster.toml").write_text(CONFIG.format(urls=bare, bucket=bucket))
        environment = {"NATS_PASSWORD": PASSWORD, "CLUSTER_KEY": key.psk.hex()}
        top, check = (
            ("top", "--config", "cluster.toml", "--once", "--dev"),
            ("config", "check", "cluster.toml", "--dev"),
        )
        for words, shown in ((top, "gateway"), (top, "gateway"), (check, "OK")):
            async with python("-m", "gatelink", *words, cwd=tmp_path, environment=environment) as process:
                status, out, err = await ended(process)
            assert status == 0 and shown in out, (words, out, err)
