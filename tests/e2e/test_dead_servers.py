"""A server whose machine is gone without a word, or stands still: it swallows no request while another one lives."""

from contextlib import AsyncExitStack

import pytest

from gatelink.cluster.engine import NoResponder
from gatelink.cluster.engines import nats
from gatelink.cluster.engines.bucket import Message
from gatelink.cluster.engines.embedded import NatsServer
from gatelink.cluster.engines.nats import NatsEngine
from tests.e2e.engines import TIMEOUT, fresh_bucket, path_to, within
from tests.support import MS

REQUESTS = 60


class Trio:
    """An engine whose path can die, and two that have a good one; `served` counts the requests that each handled."""

    def __init__(self, old: NatsEngine, new: NatsEngine, asker: NatsEngine) -> None:
        self.old, self.new, self.asker = old, new, asker
        self.served = {"old": 0, "new": 0}

    async def serve(self, name: str, subject: str) -> None:
        async def answer(data: bytes) -> bytes:
            self.served[name] += 1
            return data

        await {"old": self.old, "new": self.new}[name].serve(subject, answer)

    async def ask(self, subject: str) -> None:
        for number in range(REQUESTS):
            assert await self.asker.request(subject, b"%d" % number, TIMEOUT) == b"%d" % number


async def test_a_machine_that_died_without_a_word_swallows_no_request_to_its_replacement(
    nats_server: NatsServer,
) -> None:
    bucket = fresh_bucket()
    async with path_to(nats_server) as path, AsyncExitStack() as stack:
        urls = (within(nats_server.url, path), nats_server.url, nats_server.url)
        waits = (1_000 * MS, TIMEOUT, TIMEOUT)  # the first one can't say goodbye
        engines = [NatsEngine(url, bucket=bucket, timeout=wait) for url, wait in zip(urls, waits, strict=True)]
        it = Trio(*[await stack.enter_async_context(engine) for engine in engines])
        await it.serve("old", "gateway.1.replace")
        await it.ask("gateway.1.replace")
        path.drop()  # no FIN, no RST: NATS believes for minutes that it lives
        await it.serve("new", "gateway.1.replace")
        await it.ask("gateway.1.replace")
        assert it.served == {"old": REQUESTS, "new": REQUESTS}


async def test_of_several_servers_of_a_type_the_others_answer_when_one_stands_still(nats_server: NatsServer) -> None:
    bucket = fresh_bucket()
    async with path_to(nats_server) as path, AsyncExitStack() as stack:
        urls = (within(nats_server.url, path), nats_server.url, nats_server.url)
        it = Trio(*[await stack.enter_async_context(NatsEngine(url, bucket=bucket, timeout=TIMEOUT)) for url in urls])
        for name in ("old", "new"):
            await it.serve(name, "call.lobby")
        await it.ask("call.lobby")
        assert all(it.served.values()), "both have their share"
        before = it.served["old"]
        path.pause()
        await it.ask("call.lobby")
        assert it.served["old"] == before
        path.resume()
        while it.served["old"] == before:  # what it answers late shows that it lives again; nothing old is handled
            await it.ask("call.lobby")


async def test_many_subjects_leave_no_memory_behind(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats, "MAX_SUBJECTS", 10)
    async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
        for number in range(50):
            with pytest.raises(NoResponder):
                await engine.request(f"call.server.{number}", b"", TIMEOUT)
        assert len(engine._servers) <= 10
        assert engine._connection is not None and len(engine._connection._replies) <= 10


async def test_servers_and_callers_of_version_0_1_reach_those_of_now_and_the_other_way_round(
    nats_server: NatsServer,
) -> None:
    """They know one subject for each kind of request, which its servers share."""
    bucket = fresh_bucket()
    async with AsyncExitStack() as stack:
        now, before = [
            await stack.enter_async_context(NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT))
            for _ in range(2)
        ]
        old = before._connection
        assert old is not None

        async def old_answer(message: Message) -> None:
            await old.send(message.reply, b"old " + message.data)

        stop = await old.listen(f"{bucket}.request.s", old_answer, "serve")
        await old.round_trip()
        assert await now.request("s", b"1", TIMEOUT) == b"old 1"
        await stop()

        async def answer(data: bytes) -> bytes:
            return b"new " + data

        await now.serve("s", answer)
        headers = {"Gatelink-Timeout": f"{TIMEOUT:g}"}
        assert (await old.ask(f"{bucket}.request.s", b"2", headers)).data == b"new 2"
        assert await before.request("s", b"3", TIMEOUT) == b"new 3"
