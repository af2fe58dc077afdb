"""Every place where gatelink calls application code, with everything that such code can raise or return.

PLACES is the table; docs/operations.md ("Your code") has the same rows. A place takes the application's function, has
it called, and checks that nobody else noticed.
"""

import asyncio
import functools
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from gatelink import (
    Backoff,
    Catalog,
    CloseCode,
    ConnectError,
    Handlers,
    Identity,
    Listen,
    Session,
    connect,
    connect_cluster,
)
from gatelink.auth.methods import Custom
from gatelink.errors import RequestCode, RequestFailed
from gatelink.robots import LoadTest, Robot
from gatelink.wire.frames import encode_frame
from tests.e2e.cluster.support import LOBBY, Ask, Post, Recorder, Say, cluster
from tests.e2e.login.support import ANNA, asking, problem_in, serving_login
from tests.e2e.support import (
    CATALOG,
    TCP,
    Echo,
    EchoServer,
    Note,
    RawClient,
    frame_of,
    leave,
    neighbour,
    token_of,
    until,
    verify_request,
)
from tests.support import MS, TEST_TIMEOUT

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

Function = Callable[..., Any]
Place = Callable[[Function, Path], Awaitable[None]]

PLACES: dict[str, Place] = {}
PLAIN: set[str] = set()
"""Places that need the answer at once."""


def place(name: str, *, plain: bool = False) -> Callable[[Place], Place]:
    def add(run: Place) -> Place:
        PLACES[name] = run
        if plain:
            PLAIN.add(name)
        return run

    return add


@asynccontextmanager
async def going_on(server: EchoServer) -> AsyncIterator[RawClient]:
    """A client who is about to provoke the function; another echoes all the while, and both can at the end."""
    async with server:
        async with neighbour(server):
            client = await RawClient.verified(server, 7)
            yield client
            await client.echo(1)
        await client.close()
        await until(lambda: not len(server.sessions))
        await server.stop(0)


def errors(server: EchoServer) -> dict[str, int]:
    return dict(server.stats.handler_errors)


@place("`on(Message)`")
async def handler(function: Function, _: Path) -> None:
    server = EchoServer()
    server.instead(Note)(function)
    async with going_on(server) as client:
        client.send(frame_of(Note(1)), frame_of(Note(2)))
        await until(lambda: errors(server) == {"Note": 2})


@place("`on(Message)` with `tick_hz`")
async def ticking_handler(function: Function, _: Path) -> None:
    server = EchoServer(tick_hz=200)
    server.instead(Note)(function)
    async with going_on(server) as client:
        client.send(frame_of(Note(1)), frame_of(Note(2)))
        await until(lambda: errors(server) == {"Note": 2})


@place("`default`")
async def default(function: Function, _: Path) -> None:
    server = EchoServer()
    del server.handlers.routes[11_003]
    server.default(function)
    async with going_on(server) as client:
        client.send(frame_of(Note(1)))
        await until(lambda: errors(server) == {"Note": 1})


@place("`around`")
async def around(function: Function, _: Path) -> None:
    server = EchoServer()

    @server.around
    def hook(session: Session, message: Any, call_next: Function) -> Any:
        return function() if isinstance(message, Note) else call_next(session, message)

    async with going_on(server) as client:
        client.send(frame_of(Note(1)), frame_of(Note(2)))
        await until(lambda: errors(server) == {"Note": 2})
    assert server.notes == []


@place("`on_forward`", plain=True)
async def forward(function: Function, _: Path) -> None:
    server = EchoServer()
    server.on_forward(function)
    async with going_on(server) as client:
        client.send(encode_frame(11_999, b""))
        await until(lambda: errors(server) == {"forward": 1})


@place("`on_verified`, `on_closed`")
async def verified_and_closed(function: Function, _: Path) -> None:
    server = EchoServer()
    server.handlers.routes.clear()
    server.on(Echo)(lambda session, message: session.send(message))
    server.on_verified(function)
    server.on_closed(function)
    async with going_on(server):
        await until(lambda: errors(server) == {"verified": 2})
    assert errors(server) == {"verified": 2, "closed": 2}


@place("`on_suspended`, `on_resumed`, `on_lost`")
async def suspended_and_resumed(function: Function, _: Path) -> None:
    async with EchoServer() as server, neighbour(server):
        handlers = Handlers(CATALOG)
        heard: list[int] = []
        handlers.on(Echo)(lambda session, message: heard.append(message.n))
        handlers.on_suspended(function)
        handlers.on_resumed(function)
        client = await connect(
            str(server.endpoint),
            uid=7,
            token=token_of(7).decode(),
            handlers=handlers,
            catalog=CATALOG,
            reconnect=Backoff(first=MS, most=MS),
        )
        failed = client.context.stats.handler_errors
        failed.clear()
        server.session(7).abort()
        await until(lambda: failed["resumed"] == 1)
        client.send(Echo(1))
        await until(lambda: heard == [1])
        assert dict(failed) == {"suspended": 1, "resumed": 1} and client.close_code is None
        await leave(client)


@place("`on_tick`", plain=True)
async def tick(function: Function, _: Path) -> None:
    server = EchoServer(tick_hz=200)
    server.on_tick(function)
    async with going_on(server):
        await until(lambda: errors(server).get("tick", 0) > 2)
    assert set(errors(server)) == {"tick"}


@place("`on_start`")
async def start(function: Function, _: Path) -> None:
    """It is the one place whose failure is the caller's to know: `start` raises, and nothing is left open."""
    server = EchoServer()
    stopped: list[int] = []
    server.on_start(as_async(function))

    @server.on_stop
    async def note() -> None:
        stopped.append(1)

    try:
        await server.start()
    except Exception:
        assert stopped == [1] and not server.is_running
    else:
        await server.stop(0)
        raise AssertionError("it started")


@place("`on_stop`")
async def stop(function: Function, _: Path) -> None:
    server = EchoServer()
    stopped: list[int] = []
    server.on_stop(as_async(function))

    @server.on_stop
    async def note() -> None:
        stopped.append(1)

    async with going_on(server):
        pass
    assert stopped == [1] and not server.is_running


@place("`Listen(accept=)`", plain=True)
async def accept(function: Function, _: Path) -> None:
    server = EchoServer(TCP, Listen(endpoint=TCP, accept=function))
    async with going_on(server):
        refused = await RawClient.open(server.endpoints[1])
        assert await refused.rest_bytes() == b""
        await refused.close()
    assert server.stats.refused == {"accept-hook": 1}


@place("`Server(accept_version=)`", plain=True)
async def accept_version(function: Function, _: Path) -> None:
    server = EchoServer(accept_version=function)
    async with going_on(server):
        with pytest.raises(ConnectError) as caught:
            await connect(str(server.endpoint), uid=8, token=token_of(8).decode(), slot=1, catalog=CATALOG)
        assert caught.value.code is CloseCode.CLIENT_TOO_OLD


@place("`connect(token=)`")
async def token(function: Function, _: Path) -> None:
    async with EchoServer() as server, neighbour(server):
        with pytest.raises(ConnectError, match="no token"):
            await connect(str(server.endpoint), uid=8, token=function, catalog=CATALOG)
    assert server.stats.refused == {}


@place("`connect_cluster(token=)`")
async def cluster_token(function: Function, _: Path) -> None:
    with pytest.raises(ConnectError, match="no token"):
        await connect_cluster(
            "http://127.0.0.1:1", uid=8, token=function, catalog=CATALOG, reconnect=Backoff(attempts=0)
        )


class OddTokens:
    """As `StaticTokens`, but for uid 8."""

    def __init__(self, function: Function) -> None:
        self.verify_8 = function
        self.revoked: Function = function
        self.revocations: set[int] = set()

    def verify(self, token: bytes, uid: int, source: int, address: str) -> Any:
        if uid == 8:
            return self.verify_8(token, uid, source, address)
        return as_async(lambda: Identity(uid))()

    def has_revoked(self, uid: int) -> bool:
        return uid in self.revocations

    def revoke_user(self, uid: int) -> Any:
        self.revocations.add(uid)
        return self.revoked(uid)


@place("`Tokens.verify`")
async def verify(function: Function, _: Path) -> None:
    server = EchoServer(tokens=OddTokens(function))
    async with going_on(server):
        refused = await RawClient.open(server)
        refused.send(verify_request(8))
        assert await refused.rest() == []
        await refused.close()
    assert server.stats.refused == {"tokens-unavailable": 1}


@place("`Tokens.revoke_user`")
async def revoke(function: Function, _: Path) -> None:
    tokens = OddTokens(function)
    async with EchoServer(tokens=tokens) as server, neighbour(server):
        for uid in (7, 17):  # the same user is refused while its tokens are not revoked
            client = await RawClient.verified(server, uid)
            server.session(uid).kick()
            await client.rest()
            await client.close()
            await until(partial(tokens.has_revoked, uid))
            again = await RawClient.open(server)
            again.send(verify_request(uid))
            assert await again.rest() == [] and server.stats.refused.pop("tokens-ended") == 1
            await again.close()


class OddCodec:
    """Bytes, and what the application does in between."""

    def __init__(self, encode: Function, decode: Function) -> None:
        self.both = encode, decode

    def bind(self, cls: type) -> tuple[Function, Function]:
        return self.both


class Odd:
    pass


@asynccontextmanager
async def with_codec(encode: Function, decode: Function) -> AsyncIterator[tuple[EchoServer, RawClient]]:
    catalog = Catalog()
    for kind in (Echo, Note):
        catalog.add(CATALOG.of_type(kind).id, kind)
    catalog.add(11_009, Odd, codec=OddCodec(encode, decode))
    server = EchoServer()
    server.catalog = server.handlers.catalog = catalog
    async with server, neighbour(server):
        client = await RawClient.verified(server, 7)
        yield server, client
        await client.close()


@place("a codec's `decode`", plain=True)
async def decode(function: Function, _: Path) -> None:
    async with with_codec(bytes, function) as (server, client):
        server.on(Odd)(lambda session, message: None)
        client.send(encode_frame(11_009, b""))
        await client.rest()
        assert server.stats.closed[CloseCode.PROTOCOL_ERROR] == 1


@place("a codec's `encode`", plain=True)
async def encode(function: Function, _: Path) -> None:
    async with with_codec(function, bytes) as (server, client):
        server.instead(Note)(lambda session, message: session.send(Odd()))
        client.send(frame_of(Note(1)))
        await until(lambda: errors(server) == {"Note": 1})
        await client.echo(1)


class Wish(msgspec.Struct):
    n: int


@asynccontextmanager
async def asking_for_odd(encode: Function, decode: Function) -> AsyncIterator[tuple[EchoServer, Session]]:
    """A server that answers each `Wish` with an `Odd`, and a client that may ask for one."""
    catalogs = Catalog(), Catalog()
    for catalog, codec in zip(catalogs, (OddCodec(encode, bytes), OddCodec(bytes, decode)), strict=True):
        catalog.add(CATALOG.of_type(Echo).id, Echo)
        catalog.add(11_009, Odd, codec=codec)
        catalog.add(11_010, Wish, answer=Odd)
    server = EchoServer()
    server.handlers.routes.clear()
    server.catalog = server.handlers.catalog = catalogs[0]
    server.on(Echo)(lambda session, message: session.send(message))
    server.on(Wish)(lambda session, message: Odd())
    async with server, neighbour(server):
        client = await connect(str(server.endpoint), uid=7, token=token_of(7).decode(), catalog=catalogs[1])
        yield server, client
        await leave(client)


@place("a codec's `decode`, of an answer", plain=True)
async def decode_answer(function: Function, _: Path) -> None:
    async with asking_for_odd(lambda message: b"", function) as (server, client):
        with pytest.raises(RequestFailed) as caught:
            await client.request(Wish(1))
        assert caught.value.code is RequestCode.WRONG_ANSWER
        await client.wait_closed()
        assert client.close_code is CloseCode.PROTOCOL_ERROR


@place("a codec's `encode`, of an answer", plain=True)
async def encode_answer(function: Function, _: Path) -> None:
    async with asking_for_odd(function, bytes) as (server, client):
        with pytest.raises(RequestFailed) as caught:
            await client.request(Wish(1))
        assert caught.value.code is RequestCode.FAILED
        assert errors(server) == {"Wish": 1} and client.close_code is None


@place("`on_post`")
async def post(function: Function, _: Path) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        lobby = await town.start(
            heard(Recorder("lobby", LOBBY, member=town.member(20)), lambda s: s.on_post(Say)(function))
        )
        gateway.cluster.post(20, Say(1))
        gateway.cluster.post(20, Post(2))
        await until(lambda: lobby.posts == [(1, 2)])
        assert sum(link.session.context.stats.handler_errors["Say"] for link in lobby.cluster.links) == 1


@place("`on_call`")
async def call(function: Function, _: Path) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        prepared = heard(Recorder("lobby", LOBBY, member=town.member(20)), lambda s: s.on_call(Say)(function))
        lobby = await town.start(heard(prepared, lambda s: s.on_call(Ask)(lambda request: Ask(2))))
        with pytest.raises(RequestFailed):
            await gateway.cluster.call("lobby", Say(1), timeout=10)
        assert await gateway.cluster.call("lobby", Ask(1), timeout=10) == Ask(2)
        assert lobby.is_running


@place("`on_event`", plain=True)
async def event(function: Function, _: Path) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        seen: list[Any] = []
        prepared = heard(Recorder("lobby", LOBBY, member=town.member(20)), lambda s: s.on_event("odd")(function))
        await town.start(heard(prepared, lambda s: s.on_event("even")(seen.append)))
        await gateway.cluster.publish("odd", Say(1))
        await gateway.cluster.publish("even", Say(2))
        await until(lambda: seen == [Say(2)])
        assert town.engine.stats.handler_errors == 1


@place("`cluster.on_change`", plain=True)
async def change(function: Function, _: Path) -> None:
    async with cluster() as town:
        gateway = await town.gateway(1)
        seen: list[int] = []
        gateway.cluster.on_change(function)
        gateway.cluster.on_change(lambda before, now: seen.append(now.id if now is not None else 0))
        await town.lobby(20)
        await until(lambda: 20 in seen)


def heard(service: Recorder, prepare: Callable[[Recorder], object]) -> Recorder:
    prepare(service)
    return service


class OddMethod:
    def __init__(self, function: Function) -> None:
        self.login: Function = function


@place("a login method's `login`")
async def login(function: Function, folder: Path) -> None:
    async with serving_login(folder, methods={"password": OddMethod(function)}) as service, asking(service) as client:
        for _ in range(2):
            problem_in(await client.post("/v1/login", json=ANNA), 500, "internal-error")
        assert (await client.get("/healthz")).status_code == 200
        assert service.logins.outcomes["password", "failed"] == 2


@place("`Custom(function)`")
async def custom(function: Function, folder: Path) -> None:
    async with serving_login(folder, methods={"password": Custom(function)}) as service, asking(service) as client:
        problem_in(await client.post("/v1/login", json=ANNA), 500, "internal-error")
        assert (await client.get("/healthz")).status_code == 200


class OddIssuer:
    def __init__(self, function: Function) -> None:
        self.issue = self.revoke = function


@place("a login's `Tokens.issue` and `revoke`")
async def issue(function: Function, folder: Path) -> None:
    async with serving_login(folder, tokens=OddIssuer(function)) as service, asking(service) as client:
        problem_in(await client.post("/v1/guest", json={"device_id": "0123456789abcdef"}), 500, "internal-error")
        problem_in(await client.post("/v1/logout", json={"token": "one"}), 500, "internal-error")
        assert (await client.get("/healthz")).status_code == 200


@place("`LoginService(accept_version=)`", plain=True)
async def login_version(function: Function, folder: Path) -> None:
    async with serving_login(folder, accept_version=function) as service, asking(service) as client:
        reply = (await client.post("/login", json={"User": "anna", "Password": "correct horse"})).json()
        assert reply["Result"] != 0 and not reply["Token"]
        assert (await client.get("/healthz")).status_code == 200


@place("`Robot.run`, a robot's handlers")
async def robot(function: Function, _: Path) -> None:
    class Odd(Robot):
        catalog = CATALOG

        async def run(self) -> None:
            await self.connect()
            self.send(Echo(1))
            await until(lambda: self.found)
            result = function()
            if result is not None:
                await result

        def on_echo(self, session: Any, message: Echo) -> Any:
            self.found = True
            return function()

        found = False

    async with EchoServer() as server:
        load = LoadTest(Odd, address=str(server.endpoint), count=1, seconds=TEST_TIMEOUT)
        running = asyncio.create_task(load.run())
        await until(lambda: len(load.tally.error_texts) >= 2)
        load.stop()
        await running


# -- what it raises --


class Own(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("it has no text")

    __repr__ = __str__


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(2),
    "KeyboardInterrupt": KeyboardInterrupt,
    "a BaseException": Own,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError(), KeyError()]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(2), KeyboardInterrupt()]),
    "RecursionError": lambda: RecursionError("on purpose"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "on purpose"),
    "an error without a text": Mute,
    "ValueError": lambda: ValueError("on purpose"),
}


def as_async(function: Function) -> Function:
    async def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


STYLES = ("plain", "async", "behind a decorator")


def raising(make: Callable[[], BaseException], style: str) -> Function:
    def plain(*arguments: Any) -> Any:
        raise make()

    async def asynchronous(*arguments: Any) -> Any:
        await asyncio.sleep(0)
        raise make()

    @functools.wraps(asynchronous)
    def decorated(*arguments: Any) -> Any:
        return asynchronous(*arguments)

    made: dict[str, Function] = {"plain": plain, "async": asynchronous, "behind a decorator": decorated}
    return made[style]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(
    ("name", "style"), [(name, style) for name in PLACES for style in STYLES if style == "plain" or name not in PLAIN]
)
async def test_nothing_that_application_code_raises_leaves_its_call(
    name: str, style: str, raised: str, tmp_path: Path
) -> None:
    with capture_logs():
        await PLACES[name](raising(RAISED[raised], style), tmp_path)


async def never() -> None:
    raise AssertionError("it runs")


def generator(*arguments: Any) -> Any:
    yield 1


async def async_generator(*arguments: Any) -> Any:
    yield 1


RETURNED: dict[str, Function] = {
    "a generator": lambda *arguments: generator(),
    "an async generator": lambda *arguments: async_generator(),
}


@pytest.mark.parametrize("returned", RETURNED)
@pytest.mark.parametrize("name", [name for name in PLACES if "`decode`" not in name])
async def test_a_body_that_never_ran_is_a_failure(name: str, returned: str, tmp_path: Path) -> None:
    with capture_logs():
        await PLACES[name](RETURNED[returned], tmp_path)


@pytest.mark.parametrize("name", sorted(name for name in PLAIN if "codec" not in name))
async def test_a_coroutine_that_nobody_awaits_is_a_failure(name: str, tmp_path: Path) -> None:
    with capture_logs():
        await PLACES[name](lambda *arguments: never(), tmp_path)


WRONG: dict[str, Any] = {
    "None": None,
    "a dict": {"uid": 8},
    "a uid as a text": Identity("8"),  # type: ignore[arg-type]
    "claims that are no dict": Identity(8, claims=["a"]),  # type: ignore[arg-type]
    "an end that is a text": Identity(8, expires_at="2030-01-01"),  # type: ignore[arg-type]
    "an end that is a datetime": Identity(8, expires_at=datetime(2030, 1, 1, tzinfo=UTC)),  # type: ignore[arg-type]
    "an end that is NaN": Identity(8, expires_at=math.nan),
}
"""What is no identity. A Struct checks nothing when it is made."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["`Tokens.verify`", "a login method's `login`", "`Custom(function)`"])
async def test_what_is_no_identity_lets_nobody_in(name: str, wrong: str, tmp_path: Path) -> None:
    with capture_logs():
        await PLACES[name](lambda *arguments: WRONG[wrong], tmp_path)


class Undecided:
    def __bool__(self) -> bool:
        raise SystemExit(2)


@pytest.mark.parametrize("name", [name for name in PLACES if "(accept" in name])
async def test_a_value_that_is_neither_true_nor_false_is_a_failure(name: str, tmp_path: Path) -> None:
    with capture_logs():
        await PLACES[name](lambda *arguments: Undecided(), tmp_path)


def test_the_table_of_the_documentation_has_these_places() -> None:
    part = OPERATIONS.read_text().partition("\n## Your code\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (at once|awaited) \|", part, re.MULTILINE)
    assert rows == [(name, "at once" if name in PLAIN else "awaited") for name in PLACES]
