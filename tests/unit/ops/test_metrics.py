"""What a scrape says of a server: read from real sessions over loopback."""

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from gatelink import (
    Catalog,
    Handlers,
    Limits,
    Listen,
    Refuse,
    Request,
    RequestFailed,
    Server,
    Session,
    StaticTokens,
    _native,
    connect,
    tasks,
)
from gatelink.errors import CloseCode, ConnectError
from gatelink.handling.routes import TIME_BUCKETS
from gatelink.ops import logs
from gatelink.ops.families import Exposition
from gatelink.stats import Histogram
from gatelink.wire.control import Close
from tests.e2e.extension import ExtendedClient
from tests.e2e.support import RawClient, until

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
CATALOG = Catalog()

Sample = tuple[str, frozenset[tuple[str, str]]]


@CATALOG.message(21001)
class Ask(Struct):
    text: str


@CATALOG.message(21002)
class Answer(Struct):
    text: str


@CATALOG.message(21003)
class Question(Struct, Request[Answer]):
    text: str


def new_server() -> Server:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=CATALOG)

    @server.on(Ask)
    def ask(session: Session, message: Ask) -> None:
        session.send(Answer(message.text))

    return server


async def join(server: Server, uid: int = 7) -> tuple[Session, asyncio.Queue[Answer]]:
    """A client's session, and the answers it gets."""
    handlers = Handlers(CATALOG)
    answers: asyncio.Queue[Answer] = asyncio.Queue()

    @handlers.on(Answer)
    def answer(session: Session, message: Answer) -> None:
        answers.put_nowait(message)

    session = await connect(str(server.endpoints[0]), uid=uid, token=f"{uid:032d}", handlers=handlers, catalog=CATALOG)
    return session, answers


async def leave(session: Session) -> None:
    session.close()
    await session.wait_closed()


def scrape(metrics: Exposition) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def value(metrics: Exposition, name: str, **labels: str) -> float:
    return scrape(metrics)[f"gatelink_{name}", frozenset(labels.items())]


async def test_messages_and_their_bytes_are_counted_by_direction_and_name() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        client, answers = await join(server)
        for text in ("a", "bb"):
            client.send(Ask(text))
            await answers.get()
        size = sum(6 + len(CATALOG.encode(Ask(text))[1]) for text in ("a", "bb"))
        assert value(metrics, "messages_total", direction="in", message="Ask") == 2
        assert value(metrics, "bytes_total", direction="in", message="Ask") == size
        assert value(metrics, "messages_total", direction="out", message="Answer") == 2
        assert value(metrics, "bytes_total", direction="out", message="Answer") == size
        await leave(client)


async def test_the_time_that_checking_a_token_took_is_counted_whatever_came_of_it() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        client, _ = await join(server)
        with pytest.raises(ConnectError):
            await connect(str(server.endpoints[0]), uid=8, token="wrong", catalog=CATALOG)
        assert value(metrics, "token_seconds_count") == 2
        assert value(metrics, "token_seconds_bucket", le="+Inf") == 2
        assert 0 < value(metrics, "token_seconds_sum") < 10
        await leave(client)


async def test_a_message_taken_by_the_default_handler_is_counted_under_its_own_name() -> None:
    server = new_server()
    came = asyncio.Event()
    server.default(lambda session, message: came.set())
    async with server:
        metrics = server.metrics()
        client, _ = await join(server)
        client.send(Answer("to the wrong side"))
        await came.wait()
        assert value(metrics, "messages_total", direction="in", message="Answer") == 1
        await leave(client)


async def test_no_number_of_unknown_ids_makes_more_labels_than_other() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        client, answers = await join(server)
        session = server.sessions.get(7)
        assert session is not None
        session.send_raw(30_000, b"")
        client.send_raw(30_000, b"")
        client.send(Ask("first"))
        await answers.get()
        before = scrape(metrics)
        for id in range(30_001, 30_201):
            client.send_raw(id, b"from a peer")
            session.send_raw(id, b"to a peer")
        client.send(Ask("last"))
        await answers.get()
        after = scrape(metrics)
        assert after.keys() == before.keys()
        assert value(metrics, "messages_total", direction="out", message="other") == 201
        assert value(metrics, "messages_total", direction="in", message="other") == 201
        assert value(metrics, "unhandled_messages_total") == 201
        await leave(client)


async def test_handler_times_are_a_cumulative_histogram() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        route = server.handlers.routes[21001]
        for seconds in (0.00001, TIME_BUCKETS[0], 0.0005, 0.003, 0.3, 99.0):
            route.handled(0, seconds)
        counts = {
            bound: value(metrics, "handler_seconds_bucket", message="Ask", le=bound)
            for bound in (*map(str, TIME_BUCKETS), "+Inf")
        }
        assert counts == {"0.0001": 2, "0.001": 3, "0.005": 4, "0.025": 4, "0.1": 4, "0.5": 5, "2.5": 5, "+Inf": 6}
        assert value(metrics, "handler_seconds_count", message="Ask") == 6
        assert abs(value(metrics, "handler_seconds_sum", message="Ask") - 99.30361) < 1e-9


async def test_events_are_no_messages() -> None:
    server = new_server()
    server.on_verified(lambda session: None)
    async with server:
        client, _ = await join(server)
        names = {dict(labels).get("message") for _, labels in scrape(server.metrics())}
        assert names == {None, "Ask"}
        await leave(client)


async def test_what_a_peer_says_in_its_close_does_not_count_as_what_happened_here() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        said = (CloseCode.INTERNAL_ERROR, CloseCode.RATE_LIMITED, CloseCode.SLOW_CONSUMER)
        for uid, code in enumerate(said):
            client = await ExtendedClient.logged_in(server, uid)
            client.say(Close(code, "so I say"))
            await until(lambda uid=uid: server.sessions.get(uid) is None)  # type: ignore[misc]
            await client.close()
        for code in CloseCode:
            assert value(metrics, "closes_total", code=code.label, by="here") == 0
            assert value(metrics, "closes_total", code=code.label, by="peer") == (code in said)


async def test_what_limits_did_is_shown() -> None:
    limits = Limits(exempt=(), message_rate=1, message_burst=1, free_failures=1, ban_first=60)
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=CATALOG, limits=limits)
    server.on(Ask, rate=1)(lambda session, message: None)
    async with server:
        metrics = server.metrics()
        client, _ = await join(server)
        for _ in range(3):
            client.send(Ask("too often"))
        await until(lambda: value(metrics, "rate_pauses_total") == 1)
        assert value(metrics, "rate_dropped_messages_total", message="Ask") == 2
        assert value(metrics, "held_bytes") == value(metrics, "handshakes_waiting") == 0
        for _ in range(3):
            stranger = await RawClient.open(server)
            stranger.send(b"rubbish, and more of it")
            await stranger.rest()
            await stranger.close()
        assert value(metrics, "bans_total") == value(metrics, "banned_addresses") == 1
        assert value(metrics, "refusals_total", reason="address-banned") == 1
        await leave(client)


async def test_outboxes_are_shown_together_and_the_fullest() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        clients = [await join(server, uid) for uid in (1, 2)]
        one, two = (server.sessions.get(uid) for uid in (1, 2))
        assert one is not None and two is not None
        one.send_raw(30_000, bytes(94))  # 100 bytes with its header; it leaves in the loop's next turn
        for _ in range(3):
            two.send_raw(30_000, bytes(94))
        found = {
            name: value(metrics, name)
            for name in ("outbox_bytes", "outbox_bytes_max", "outbox_frames", "outbox_frames_max")
        }
        assert found == {"outbox_bytes": 400, "outbox_bytes_max": 300, "outbox_frames": 4, "outbox_frames_max": 3}
        for client, _ in clients:
            await leave(client)


async def test_what_waits_for_a_slow_handler_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server("tcp://127.0.0.1:0", tokens=StaticTokens(), catalog=CATALOG)
    started, go = asyncio.Event(), asyncio.Event()

    @server.on(Ask)
    async def ask(session: Session, message: Ask) -> None:
        started.set()
        await go.wait()
        session.send(Answer(message.text))

    async with server:
        metrics = server.metrics()
        client, answers = await join(server)
        for _ in range(5):
            client.send(Ask(""))  # one write, one read
        await started.wait()
        assert value(metrics, "inbox_frames") == value(metrics, "inbox_frames_max") == 4
        assert value(metrics, "handlers_running") == 1 and value(metrics, "handlers_long") == 0
        monkeypatch.setattr("gatelink.ops.metrics.LONG", 0.0)
        assert value(metrics, "handlers_long") == 1
        go.set()
        for _ in range(5):
            await answers.get()
        assert value(metrics, "inbox_frames") == value(metrics, "handlers_running") == 0
        await leave(client)


async def test_sessions_logins_and_closes_by_code() -> None:
    async with new_server() as server:
        metrics = server.metrics()
        client, _ = await join(server)
        assert value(metrics, "sessions") == value(metrics, "connections") == 1
        assert value(metrics, "logins_total") == value(metrics, "accepted_connections_total") == 1
        session = server.sessions.get(7)
        assert session is not None
        session.kick()
        await asyncio.gather(client.wait_closed(), session.wait_closed())
        found = {code: value(metrics, "closes_total", code=code.label, by="here") for code in CloseCode}
        assert found == {code: float(code is CloseCode.KICKED) for code in CloseCode}
        assert value(metrics, "sessions") == 0


async def test_connections_that_are_not_verified_are_counted_and_refusals_have_their_reason() -> None:
    came = asyncio.Event()
    door = Listen(endpoint="tcp://127.0.0.1:0", accept=lambda connection: came.set())
    async with Server(door, tokens=StaticTokens(), catalog=CATALOG) as server:
        metrics = server.metrics()
        endpoint = server.endpoints[0]
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        await came.wait()
        assert value(metrics, "unverified_connections") == 1
        writer.write(bytes.fromhex("0200000004 00"))  # HeartBeat is no first message
        assert await reader.read() == b""
        assert value(metrics, "refusals_total", reason="wrong-first-message") == 1
        assert value(metrics, "unverified_connections") == 0
        writer.close()


async def test_two_servers_in_one_process_have_each_their_own_figures() -> None:
    async with new_server() as busy, new_server() as idle:
        clients = [await join(busy, uid) for uid in (1, 2)]
        assert value(busy.metrics(), "sessions") == 2
        assert value(idle.metrics(), "sessions") == 0
        for client, _ in clients:
            await leave(client)


async def test_every_metric_is_in_docs_operations_and_nothing_else_is() -> None:
    async with new_server() as server:
        families = text_string_to_metric_families(server.metrics().exposition().decode())
        ours = {
            family.name + ("_total" if family.type == "counter" else "")
            for family in families
            if family.name.startswith("gatelink_")
        }
    assert set(re.findall(r"^\| `(gatelink_\w+)", OPERATIONS.read_text(), re.MULTILINE)) == ours


COUNTERS = {
    "accepted_connections_total": "accepted",
    "logins_total": "verified",
    "bans_total": "bans",
    "unhandled_messages_total": "unhandled",
    "dropped_messages_total": "dropped",
    "reading_pauses_total": "paused",
    "rate_pauses_total": "rate_paused",
    "stray_answers_total": "stray_answers",
    "held_bytes": "held_bytes",
    "backlog_messages_dropped_total": "backlogs_dropped",
    "ticks_total": "ticks",
    "tick_overruns_total": "tick_overruns",
    "token_seconds_sum": "token_seconds",
    "request_seconds_sum": "request_seconds",
    "rtt_seconds_sum": "rtt",
}
"""By metric without labels: the field of `Stats` that it shows."""


async def test_every_counter_is_shown_under_its_own_name() -> None:
    async with new_server() as server:
        for number, field in enumerate(COUNTERS.values(), 1_000):
            if isinstance(counted := getattr(server.stats, field), Histogram):
                counted.observe(number)
            else:
                setattr(server.stats, field, number)
        metrics = server.metrics()
        assert {name: value(metrics, name) for name in COUNTERS} == {
            name: number for number, name in enumerate(COUNTERS, 1_000)
        }


async def test_what_the_process_counts_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_server() as server:
        metrics = server.metrics()
        with monkeypatch.context() as patched:  # for these lines alone: sessions use the real core
            patched.setattr(_native, "core", SimpleNamespace(frame_counts=lambda: (3, 1)))
            patched.setattr(logs, "dropped", lambda: 5)
            patched.setitem(tasks.failures, "ticks", 2)
            assert value(metrics, "native") == 1 and value(metrics, "native_share") == 0.75
            assert value(metrics, "frames_total", way="straight") == 3
            assert value(metrics, "frames_total", way="listed") == 1
            assert value(metrics, "log_lines_dropped_total") == 5
            assert value(metrics, "task_failures_total", task="ticks") == 2


async def test_connections_before_their_proxy_header_are_unverified() -> None:
    door = Listen(endpoint="tcp://127.0.0.1:0", proxies=("127.0.0.0/8",))
    async with Server(door, tokens=StaticTokens(), catalog=CATALOG) as server:
        endpoint = server.endpoints[0]
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        await until(lambda: server.connections)
        assert value(server.metrics(), "unverified_connections") == 1
        writer.close()


async def test_requests_and_renewals_are_counted_by_their_outcome() -> None:
    async with new_server() as server:
        metrics = server.metrics()

        @server.on(Question)
        async def question(session: Session, message: Question) -> Answer:
            if message.text == "no":
                raise Refuse(1, "no")
            if message.text == "back":
                return await session.request(Question("from the server"))
            return Answer(message.text)

        handlers = Handlers(CATALOG)
        handlers.on(Question)(lambda session, message: Answer(message.text))
        client = await connect(
            str(server.endpoints[0]), uid=7, token=f"{7:032d}", slot=0, handlers=handlers, catalog=CATALOG
        )
        await client.request(Question("yes"))
        await client.request(Question("back"))
        with pytest.raises(RequestFailed):
            await client.request(Question("no"))
        with pytest.raises(RequestFailed):
            await client.renew("wrong")
        assert value(metrics, "requests_total", direction="in", outcome="answered") == 2
        assert value(metrics, "requests_total", direction="in", outcome="refused") == 1
        assert value(metrics, "requests_total", direction="out", outcome="answered") == 1
        assert value(metrics, "request_seconds_count") == 1
        assert value(metrics, "stray_answers_total") == 0
        assert value(metrics, "renewals_total", outcome="refused") == 1
        await leave(client)
