"""From a login over HTTP to a session over TCP: several login processes and servers that share one engine."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gatelink import CloseCode, ConnectError, Handlers, Server, ServerKey, Session, connect
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.messages import LoginReply
from tests.e2e.engines import NewEngine
from tests.e2e.login.support import new_accounts, new_service
from tests.e2e.support import CATALOG, TCP, Echo, EchoServer, leave


async def play(reply: LoginReply) -> None:
    """Connects as the reply says, sealed, and hears an echo. Raises ConnectError."""
    handlers = Handlers(CATALOG)
    heard = asyncio.Event()
    handlers.on(Echo)(lambda session, message: heard.set())
    session = await connect(
        reply.addresses["tcp"],
        uid=reply.uid,
        token=reply.token,
        handlers=handlers,
        catalog=CATALOG,
        server_key=bytes.fromhex(reply.public_key),
    )
    assert session.uid == reply.uid
    session.send(Echo(1))
    await heard.wait()
    await leave(session)


async def test_a_user_that_logs_in_anywhere_plays_anywhere_until_logout(new_engine: NewEngine, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        servers: list[Server] = []
        for id in (1, 2):
            engine = await stack.enter_async_context(new_engine())
            key = ServerKey.generate()
            server = EchoServer(TCP, tokens=EngineTokens(engine), keys=[key], id=id)
            servers.append(await stack.enter_async_context(server))
        gateways = StaticGateways(
            GatewayInfo(
                id=server.id,
                name=f"g{server.id}",
                addresses=(str(server.endpoints[0]),),
                public_key=(server.public_key or b"").hex(),
            )
            for server in servers
        )
        clients = []
        for _ in range(2):
            engine = await stack.enter_async_context(new_engine())
            service = await stack.enter_async_context(new_service(engine, accounts, gateways=gateways, one_token=True))
            clients.append(await stack.enter_async_context(LoginClient(service.url)))

        anna = await clients[0].register("anna", "correct horse")
        bert = await clients[1].register("bert", "correct horse")
        assert {anna.addresses["tcp"], bert.addresses["tcp"]} == {str(server.endpoints[0]) for server in servers}
        await play(anna)
        await play(bert)

        newer = await clients[1].login("anna", "correct horse")
        with pytest.raises(ConnectError):
            await play(anna)
        assert newer.uid == anna.uid
        await play(newer)

        await clients[0].logout(newer.token)
        with pytest.raises(ConnectError):
            await play(newer)
        await play(bert)


async def test_a_kicked_player_whose_tokens_were_ended_does_not_come_back(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(new_engine())
        server = Server(TCP, tokens=EngineTokens(engine), catalog=CATALOG)

        @server.on(Echo)
        async def ban(session: Session, _: Echo) -> None:
            await EngineTokens(engine).revoke_user(session.uid)
            session.kick("banned")

        await stack.enter_async_context(server)
        accounts = await stack.enter_async_context(new_accounts(tmp_path))
        gateways = StaticGateways([GatewayInfo(id=1, name="g1", addresses=(str(server.endpoints[0]),))])
        service = await stack.enter_async_context(new_service(engine, accounts, gateways=gateways))
        client = await stack.enter_async_context(LoginClient(service.url))
        reply = await client.register("anna", "correct horse")
        address = reply.addresses["tcp"]
        session = await connect(address, uid=reply.uid, token=reply.token, catalog=CATALOG)
        session.send(Echo(1))
        await session.wait_closed()
        with pytest.raises(ConnectError) as refused:
            await connect(address, uid=reply.uid, token=reply.token, catalog=CATALOG)
        # 4011 while the kick is still being carried out: the token is good for nothing then, too.
        assert refused.value.code in (CloseCode.VERIFY_FAILED, CloseCode.GOING_AWAY)


async def test_the_client_says_what_the_service_said(tmp_path: Path, new_engine: NewEngine) -> None:
    async with new_engine() as engine, new_accounts(tmp_path) as accounts, new_service(engine, accounts) as service:
        async with LoginClient(service.url) as client:
            await client.register("anna", "correct horse")
            with pytest.raises(LoginFailed) as taken:
                await client.register("anna", "correct horse")
            assert (taken.value.status, taken.value.code) == (409, "name-taken")
            while True:
                with pytest.raises(LoginFailed) as failed:
                    await client.login("anna", "wrong")
                if failed.value.status == 429:
                    break
                assert failed.value.code == "wrong-credentials" and failed.value.retry_after is None
            assert failed.value.code == "too-many-tries" and (failed.value.retry_after or 0) >= 1


async def test_a_service_that_is_not_there_is_a_failed_login() -> None:
    async with LoginClient("http://127.0.0.1:9") as client:
        with pytest.raises(LoginFailed, match="no answer") as failed:
            await client.servers()
        assert failed.value.status == 0
