"""The login services of a cluster, as the engine has them."""

from gatelink.cluster.engine import EngineUnavailable, Revision
from gatelink.cluster.login_services import PREFIX, LoginServices, keep_entry
from gatelink.ops.lag import LoopLag
from gatelink.testing import MemoryEngine
from tests.e2e.support import until

SOON = 0.05  # s
URL = "http://10.0.0.1:8080"


async def test_a_login_is_seen_with_its_load_and_trouble_until_it_ends() -> None:
    lag, done, trouble = LoopLag(), 0, ""
    async with MemoryEngine() as engine:
        logins = LoginServices(engine)
        await logins.start()
        async with keep_entry(engine, URL, lambda: done, lambda: trouble, lag, keepalive=SOON):
            await until(lambda: len(logins.infos) == 1)
            (key,) = logins.infos
            first = logins.infos[key]
            assert (first.url, first.trouble, first.logins) == (URL, "", 0.0)
            assert first.memory > 1_000_000 and first.version and first.started_at <= first.updated_at
            done, trouble = 10, "no gateway is up and takes players"
            await until(lambda: logins.infos[key].trouble == trouble)
            assert logins.infos[key].instance == first.instance
            async with keep_entry(engine, URL, lambda: 0, lambda: "", lag, keepalive=SOON):
                await until(lambda: len(logins.infos) == 2, "each process has an entry of its own")
        await until(lambda: not logins.infos)
        await logins.close()
    lag.stop()


async def test_an_engine_that_is_away_harms_no_login() -> None:
    class Away(MemoryEngine):
        is_away = True
        tries = 0

        async def put(self, key: str, value: bytes, ttl: float) -> Revision:
            self.tries += 1
            if self.is_away:
                raise EngineUnavailable("away")
            return await super().put(key, value, ttl)

    lag = LoopLag()
    async with Away() as engine:
        logins = LoginServices(engine)
        await logins.start()
        async with keep_entry(engine, URL, lambda: 0, lambda: "", lag, keepalive=SOON):
            await until(lambda: engine.tries > 1)
            engine.is_away = False
            await until(lambda: len(logins.infos) == 1)
        await logins.close()
    lag.stop()


async def test_an_entry_of_another_version_is_passed_over() -> None:
    async with MemoryEngine() as engine:
        await engine.put(f"{PREFIX}.other", b"\xc1", 10)
        await engine.put(f"{PREFIX}.older", b"\x80", 10)
        logins = LoginServices(engine)
        await logins.start()
        assert logins.infos == {}
        await logins.close()
