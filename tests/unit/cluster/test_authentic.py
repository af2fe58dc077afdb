"""No server believes entries and messages of somebody with access to NATS but without the cluster key."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.signed_tokens import SignedTokens, signing_key
from gatelink.auth.tokens import digest_of, new_token
from gatelink.cluster import authentic
from gatelink.cluster.authentic import MAX_AGE, MAX_REMEMBERED, AuthenticEngine
from gatelink.cluster.directory import Directory, Place, find_place
from gatelink.cluster.engine import Conflict
from gatelink.cluster.engine_keys import EngineKey, LoginKey
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.cluster.registry import Registry, ServerInfo
from gatelink.errors import Refuse, RequestCode, RequestFailed, VerifyError
from gatelink.login.limits import LoginLimits
from gatelink.login.throttle import Throttle, TooMany
from gatelink.testing import FakeClock
from gatelink.wire.keys import ClusterKey
from tests.e2e.support import until

KEY, OLDER, STRANGERS = (ClusterKey(bytes([n]) * 32) for n in (1, 2, 3))
NAMES = (
    *("servers.5", "players.7.0", "epochs.base", "kicks.7.all", "other.1", "logins.pair.x"),
    *("tokens.ab", "user-tokens.7", "revoked-tokens.user.7", "revocations.7.tokens"),
)
every_name = pytest.mark.parametrize("name", NAMES)


def of(engine: MemoryEngine, *keys: ClusterKey, **options: Any) -> AuthenticEngine:
    return AuthenticEngine(engine, [EngineKey.of(key) for key in keys or (KEY,)], **options)


def for_login(engine: MemoryEngine, *keys: ClusterKey) -> AuthenticEngine:
    return AuthenticEngine(engine, [LoginKey.of(key).engine_key for key in keys or (KEY,)])


def gateway(id: int = 5, **options: Any) -> ServerInfo:
    wanted: dict[str, Any] = {"id": id, "type": 1, "name": "gateway", "outer": ("tcp://10.0.0.1:7000",)} | options
    return ServerInfo(**wanted)


# -- entries --


@every_name
async def test_an_entry_is_read_by_every_server_of_the_cluster(name: str) -> None:
    async with MemoryEngine() as engine:
        revision = await of(engine).create(name, b"value", 60)
        entry = await of(engine).get(name)
        assert entry is not None and (entry.value, entry.revision) == (b"value", revision)
        await of(engine).update(name, b"", 60, revision)
        entry = await of(engine).get(name)
        assert entry is not None and entry.value == b""
        assert not engine.stats.not_authentic


@every_name
@pytest.mark.parametrize(
    "forge",
    [
        lambda sealed: b"value",
        lambda sealed: b"",
        lambda sealed: b"\xc1",
        lambda sealed: sealed[:1] + bytes(16) + sealed[17:],
        lambda sealed: sealed[:-1],
        lambda sealed: sealed[:20],
        lambda sealed: sealed + b"\0",
        lambda sealed: sealed[1:],
        lambda sealed: sealed[:17] + sealed,
    ],
    ids=["plain", "empty", "magic", "no mac", "cut", "short", "longer", "without magic", "twice"],
)
async def test_what_is_forged_is_as_if_it_were_not_there(name: str, forge: Callable[[bytes], bytes]) -> None:
    async with MemoryEngine() as engine:
        server = of(engine)
        await engine.put(name, forge(server.seal_entry(name, b"value")), 60)
        assert await server.get(name) is None
        assert sum(engine.stats.not_authentic.values()) == 1, "and it is counted"
        async with server.watch(name.partition(".")[0]) as watch:
            assert dict(watch.entries) == {} and len(watch.entries) == 0
        await server.create(name, b"ours", 60)  # over it, since nobody owns it
        entry = await server.get(name)
        assert entry is not None and entry.value == b"ours"
        with pytest.raises(Conflict):
            await server.create(name, b"again", 60)


@every_name
async def test_any_flipped_bit_is_seen(name: str) -> None:
    async with MemoryEngine() as engine:
        server = of(engine)
        sealed = server.seal_entry(name, b"value")
        for place in range(8 * len(sealed)):
            changed = bytearray(sealed)
            changed[place // 8] ^= 1 << place % 8
            assert server.open_entry(name, bytes(changed)) is None
        assert server.open_entry(name, sealed) == b"value"


async def test_an_entry_holds_only_under_its_own_key_whatever_the_two_keys() -> None:
    async with MemoryEngine() as engine:
        server = of(engine)
        names = [*NAMES, "servers.51", "players.7.00", "players.70.0", "tokens.abb"]
        sealed = {name: server.seal_entry(name, b"value") for name in names}
        for name in names:
            for other in names:
                assert (server.open_entry(name, sealed[other]) is not None) == (name == other)


async def test_another_clusters_or_a_retired_key_writes_nothing() -> None:
    async with MemoryEngine() as engine:
        for name in NAMES:
            old, new, both = of(engine, OLDER), of(engine, KEY), of(engine, KEY, OLDER)
            assert of(engine).open_entry(name, of(engine, STRANGERS).seal_entry(name, b"x")) is None
            by_old = old.seal_entry(name, b"old")
            assert both.open_entry(name, by_old) == b"old", "while the key changes"
            assert new.open_entry(name, both.seal_entry(name, b"new")) == b"new", "the newest key writes"
            assert old.open_entry(name, both.seal_entry(name, b"new")) is None, "so every server needs both first"
            assert new.open_entry(name, by_old) is None, "once the old key is retired"


async def test_a_watch_tells_of_no_forgery_and_of_what_a_forgery_replaced() -> None:
    async with MemoryEngine() as engine:
        server = of(engine)
        await engine.put("servers.6", b"forged", 60)
        await server.put("servers.5", b"one", 60)
        async with server.watch("servers") as watch:
            assert dict(watch.entries) == {"servers.5": b"one"}
            changes = aiter(watch)
            await server.put("servers.5", b"two", 60)
            change = await anext(changes)
            assert (change.key, change.value) == ("servers.5", b"two")
            await engine.put("servers.5", b"forged", 60)
            change = await anext(changes)
            assert (change.key, change.value) == ("servers.5", None), "its writer writes it again"
            assert "servers.5" not in watch.entries


async def test_thousands_of_forged_entries_are_checked_once_and_stop_no_loop() -> None:
    async with MemoryEngine() as engine:
        server = of(engine)
        for id in range(1, 5_001):
            await engine.put(f"servers.{id}", b"\xc1" + bytes(200), 600)
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        registry = Registry(server)
        await registry.start()
        try:
            assert registry.servers == {} and engine.stats.not_authentic["registry"] == 5_000
            before = turns
            for id in range(1, 5_001):
                engine._write(f"servers.{id}", b"\xc1" + bytes(201), 600)
            await of(engine).put("servers.9999", msgspec.msgpack.encode(gateway(9_999)), 600)
            await until(lambda: 9_999 in registry.servers)
            assert turns - before >= 40, "others have a turn between the forgeries"
            assert engine.stats.not_authentic["registry"] == 10_000 and len(registry.servers) == 1
        finally:
            turning.cancel()
            await registry.close()


# -- a login service --


async def test_a_login_service_reads_the_registry_and_can_make_no_gateway_up() -> None:
    async with MemoryEngine() as engine:
        login, server = for_login(engine), of(engine)
        await server.put("servers.5", b"value", 60)
        entry = await login.get("servers.5")
        assert entry is not None and entry.value == b"value"
        with pytest.raises(LookupError, match="no key to write the registry"):
            await login.put("servers.6", b"fake", 60)
        # A thief of its keys has the MAC's key, and no signature.
        for signature in (bytes(64), server.seal_entry("servers.5", b"value")[17:81]):
            thief = for_login(engine)
            body = signature + b"fake"
            forged = b"\xc1" + thief._mac(b"entry", "servers.6", body) + body
            assert server.open_entry("servers.6", forged) is None and login.open_entry("servers.6", forged) is None


async def test_a_login_service_has_no_key_for_sessions_calls_and_events() -> None:
    async with MemoryEngine() as engine:
        login = for_login(engine)
        await of(engine).put("players.7.0", b"place", 60)
        assert await login.get("players.7.0") is None
        for write in (
            lambda: login.put("players.7.0", b"x", 60),
            lambda: login.publish("events.news", b"x"),
            lambda: login.request("gateway.1.replace", b"x", 1.0),
            lambda: login.request("call.server.1", b"x", 1.0),
        ):
            with pytest.raises(LookupError, match="no key for this purpose"):
                await write()
        for name in ("tokens.ab", "user-tokens.7", "revoked-tokens.user.7", "logins.pair.x"):
            await login.put(name, b"x", 60)
            assert await of(engine).get(name) is not None


async def test_no_login_key_tells_the_cluster_key_or_another_purposes() -> None:
    key = EngineKey.of(KEY)
    secrets = [*key.macs.values(), KEY.psk]
    assert len(set(secrets)) == len(secrets) == 6
    login = LoginKey.of(KEY)
    raw = bytes.fromhex(login.to_hex())
    assert KEY.psk not in raw and key.macs["directory"] not in raw and key.macs["servers"] not in raw
    assert key.sign is not None and key.sign.private_bytes_raw() not in raw
    again = LoginKey.from_hex(login.to_hex())
    assert again.to_hex() == login.to_hex() and again.key_id == KEY.key_id and again.engine_key.sign is None
    assert login.to_hex()[8:] not in repr(login) + repr(key)


# -- what each part does with a forgery --


async def test_a_forged_gateway_is_not_in_the_registry_and_stops_no_server() -> None:
    async with MemoryEngine() as engine:
        replaced: list[None] = []
        mine, others = Registry(of(engine), on_replaced=lambda: replaced.append(None)), Registry(for_login(engine))
        await mine.start()
        await mine.register(gateway(5))
        await others.start()
        try:
            newer = msgspec.msgpack.encode(gateway(5, started_at=9e9, updated_at=9e9, instance="evil"))
            await engine.put("servers.5", newer, 600)
            await engine.put("servers.6", msgspec.msgpack.encode(gateway(6, outer=("tcp://evil:1",))), 600)
            await until(lambda: engine._rows["servers.5"].value != newer, "the server writes its own entry again")
            await until(lambda: 5 in others.servers)
            assert mine.me is not None and others.servers[5].instance == mine.me.instance
            assert set(others.servers) == {5} and not replaced
        finally:
            await others.close()
            await mine.close()


async def test_an_older_entry_that_is_written_again_takes_no_servers_place() -> None:
    async with MemoryEngine() as engine:
        old = of(engine).seal_entry("servers.5", msgspec.msgpack.encode(gateway(5, updated_at=1.0, instance="old")))
        mine, others = Registry(of(engine)), Registry(for_login(engine))
        seen: list[str] = []
        others._on_change = lambda before, now: seen.append(now.instance) if now is not None else None
        await mine.start()
        await mine.register(gateway(5))
        await others.start()
        try:
            await engine.put("servers.5", old, 600)
            await until(lambda: engine._rows["servers.5"].value != old, "the server writes its own entry again")
            await until(lambda: len(seen) > 0)
            assert mine.me is not None and set(seen) == {mine.me.instance} and not mine._is_replaced
        finally:
            await others.close()
            await mine.close()


async def test_a_forged_place_neither_ends_a_session_nor_stops_a_login() -> None:
    async with MemoryEngine() as engine:
        directory = Directory(of(engine), 1)
        epoch, _ = await directory.take_epoch(7, 0)
        await engine.put("players.7.0", msgspec.msgpack.encode(Place(2, 1 << 60)), 600)
        assert (await directory.renew(7, 0, epoch))[0], "no newer login"
        await engine.put("players.7.0", b"junk", 600)
        newer, before = await directory.take_epoch(7, 0)
        assert newer > epoch and before is None
        assert await find_place(of(engine), 7) == Place(1, newer)


async def test_an_older_place_that_is_written_again_makes_no_older_login_newer() -> None:
    async with MemoryEngine() as engine:
        directory = Directory(of(engine), 1)
        await directory.take_epoch(7, 0)
        old = engine._rows["players.7.0"].value
        epoch, _ = await directory.take_epoch(7, 0)
        await engine.put("players.7.0", old, 600)
        assert (await directory.renew(7, 0, epoch))[0]
        assert await find_place(of(engine), 7) == Place(1, epoch)
        await engine.put("players.7.0", old, 600)
        assert (await directory.take_epoch(7, 0))[0] > epoch


async def test_a_made_up_token_logs_nobody_in() -> None:
    async with MemoryEngine() as engine:
        tokens = EngineTokens(of(engine))
        made_up, issued = new_token(), await EngineTokens(for_login(engine)).issue(7)
        record = msgspec.msgpack.encode((1, {"admin": True}, 9e9, 9e9, False))
        await engine.put(f"tokens.{digest_of(made_up).hex()}", record, 600)
        for uid in (1, 7):
            with pytest.raises(VerifyError, match="unknown token"):
                await tokens.verify(made_up.encode(), uid, 0, "")
        moved = engine._rows[f"tokens.{digest_of(issued).hex()}"].value  # a token's record under another's digest
        await engine.put(f"tokens.{digest_of(made_up).hex()}", moved, 600)
        with pytest.raises(VerifyError, match="unknown token"):
            await tokens.verify(made_up.encode(), 7, 0, "")
        assert (await tokens.verify(issued.encode(), 7, 0, "")).uid == 7


async def test_a_made_up_revocation_ends_no_token() -> None:
    key = signing_key("11" * 32)
    async with MemoryEngine() as engine, SignedTokens(of(engine), keys=[key]) as tokens:
        token = await tokens.issue(7)
        await engine.put("revoked-tokens.user.7", b"9e9", 60)
        await engine.put("revoked-tokens.slot.7.0", b"9e9", 60)
        assert (await tokens.verify(token.encode(), 7, 0, "")).uid == 7
        await tokens.revoke_user(7)
        with pytest.raises(VerifyError, match="revoked"):
            await tokens.verify(token.encode(), 7, 0, "")


async def test_a_made_up_count_of_tries_locks_nobody_out() -> None:
    limits = LoginLimits(exempt=())
    async with MemoryEngine() as engine:
        throttle = Throttle(for_login(engine), limits)
        await (await throttle.login("anna", "192.0.2.1")).failed()
        for name in list(engine._rows):
            await engine.put(name, msgspec.msgpack.encode((9e9, 9e9, 9e9)), 600)
        await throttle.login("anna", "192.0.2.1")
        locked = Throttle(engine, limits)  # as a login without keys would read it
        for name in list(engine._rows):
            await engine.put(name, msgspec.msgpack.encode((9e9, 9e9, 9e9)), 600)
        with pytest.raises(TooMany):
            await locked.login("anna", "192.0.2.1")


# -- events and requests --


async def test_only_servers_of_the_cluster_send_events_and_each_is_heard_once() -> None:
    async with MemoryEngine() as engine:
        heard: list[bytes] = []
        recorded: list[bytes] = []
        await of(engine).subscribe("events.news", heard.append)
        await engine.subscribe("events.news", recorded.append)
        await of(engine).subscribe("events.other", heard.append)
        await of(engine).publish("events.news", b"one")
        await until(lambda: len(recorded) == 1)
        for forged in (b"two", recorded[0], recorded[0][:-1], recorded[0] + b"x", b""):
            await engine.publish("events.news", forged)
        await engine.publish("events.other", recorded[0])
        await of(engine, STRANGERS).publish("events.news", b"three")
        await of(engine).publish("events.news", b"last")
        await until(lambda: heard[-1:] == [b"last"])
        assert heard == [b"one", b"last"]
        assert engine.stats.not_authentic["servers"] == 7


async def test_a_request_is_handled_once_and_only_from_a_server() -> None:
    async with MemoryEngine() as engine:
        handled: list[bytes] = []
        sent: list[bytes] = []

        async def handler(data: bytes) -> bytes:
            handled.append(data)
            return b"answer to " + data

        class Tapped(MemoryEngine):
            async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
                sent.append(data)
                return await engine.request(subject, data, timeout)

        await of(engine).serve("gateway.1.replace", handler)
        caller = of(Tapped())
        assert await caller.request("gateway.1.replace", b"one", 1.0) == b"answer to one"
        for forged in (b"two", sent[0], sent[0][:-1], sent[0] + b"x"):
            with pytest.raises(RequestFailed, match="not authentic"):
                await engine.request("gateway.1.replace", forged, 1.0)
        with pytest.raises(RequestFailed, match="not authentic"):
            await of(engine, STRANGERS).request("gateway.1.replace", b"three", 1.0)
        assert handled == [b"one"]


async def test_a_request_for_one_server_is_not_handled_by_another() -> None:
    async with MemoryEngine() as engine:
        sent: list[bytes] = []

        async def record(data: bytes) -> bytes:
            sent.append(data)
            return b""

        async def handler(data: bytes) -> bytes:
            raise AssertionError("it was not for this server")

        await engine.serve("call.server.1", record)
        await of(engine).serve("call.server.2", handler)
        with pytest.raises(RequestFailed, match="the answer is not authentic"):
            await of(engine).request("call.server.1", b"kick 7", 1.0)
        with pytest.raises(RequestFailed, match="the request is not authentic"):
            await engine.request("call.server.2", sent[0], 1.0)


async def test_an_answer_belongs_to_its_request() -> None:
    async with MemoryEngine() as engine:
        answers: list[bytes] = []

        async def handler(data: bytes) -> bytes:
            return b"answer to " + data

        async def impostor(data: bytes) -> bytes:
            return answers[0]

        serving = await of(engine).serve("call.bank", handler)
        tapped = of(engine)
        inner = engine.request

        async def keep(subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
            answers.append(await inner(subject, data, timeout))
            return answers[-1]

        engine.request = keep  # type: ignore[method-assign]
        assert await tapped.request("call.bank", b"one", 1.0) == b"answer to one"
        await serving.close()
        await engine.serve("call.bank", impostor)
        with pytest.raises(RequestFailed, match="the answer is not authentic"):
            await tapped.request("call.bank", b"one", 1.0)


async def test_a_refusal_is_authenticated_too() -> None:
    async with MemoryEngine() as engine:

        async def refuse(data: bytes) -> bytes:
            raise Refuse(7, "too poor")

        serving = await of(engine).serve("call.bank", refuse)
        with pytest.raises(RequestFailed, match="refused with 7 .too poor") as failed:
            await of(engine).request("call.bank", b"", 1.0)
        assert (failed.value.detail, failed.value.reason) == (7, "too poor")
        await serving.close()
        await engine.serve("call.bank", refuse)  # by somebody without the key
        with pytest.raises(RequestFailed) as failed:
            await of(engine).request("call.bank", b"", 1.0)
        assert failed.value.detail == 0 and failed.value.code is RequestCode.FAILED


async def test_no_event_is_taken_twice_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentic, "MAX_REMEMBERED", 10)
    async with MemoryEngine() as engine:
        clock, heard, recorded = FakeClock(1_000.0), list[bytes](), list[bytes]()
        receiver, sender = of(engine, clock=clock), of(engine, clock=clock)
        await engine.subscribe("events.news", recorded.append)
        await receiver.subscribe("events.news", heard.append)
        sent = [b"%d" % number for number in range(30)]
        for data in sent:
            clock.advance(0.1)
            await sender.publish("events.news", data)
        await until(lambda: heard == sent and len(recorded) == len(sent))
        for again in list(recorded):
            await engine.publish("events.news", again)
        await sender.publish("events.news", b"last")
        await until(lambda: heard[-1:] == [b"last"])
        assert heard == [*sent, b"last"] and len(receiver._taken) == 10
        clock.advance(2 * MAX_AGE)
        await sender.publish("events.news", b"later")
        await until(lambda: heard[-1:] == [b"later"])
        assert len(receiver._taken) == 1


async def test_an_old_event_is_not_taken_whatever_is_remembered() -> None:
    async with MemoryEngine() as engine:
        clock, heard = FakeClock(1_000.0), list[bytes]()
        recorded: list[bytes] = []
        receiver, sender = of(engine, clock=clock), of(engine, clock=clock)
        await engine.subscribe("events.news", recorded.append)
        await receiver.subscribe("events.news", heard.append)
        await sender.publish("events.news", b"one")
        await until(lambda: heard == [b"one"] and len(recorded) == 1)
        clock.advance(MAX_AGE + 1)
        await engine.publish("events.news", recorded[0])
        await sender.publish("events.news", b"two")
        await until(lambda: heard == [b"one", b"two"])
        clock.advance(3 * MAX_AGE)
        await sender.publish("events.news", b"three")
        await until(lambda: heard[-1:] == [b"three"])
        assert len(receiver._taken) == 1 <= MAX_REMEMBERED, "what is too old anyhow is forgotten"


def test_bytes_of_an_entry_are_as_documented() -> None:
    """So that another version can read them; the keys are HKDF-SHA256 of the cluster key."""
    import hashlib
    import hmac

    def hkdf(info: bytes) -> bytes:
        return hmac.digest(hmac.digest(bytes(32), KEY.psk, "sha256"), info + b"\1", hashlib.sha256)

    sealed = of(MemoryEngine()).seal_entry("players.7.0", b"value")
    mac = hmac.digest(hkdf(b"gatelink engine directory"), b"entry\0players.7.0\0value", "sha256")[:16]
    assert sealed == b"\xc1" + mac + b"value"
    event = of(MemoryEngine(), clock=lambda: 2.5)._sealed(b"event", "events.x", b"data").whole
    assert struct.unpack("<Q", event[25:33]) == (2_500_000,) and event[33:] == b"data"
