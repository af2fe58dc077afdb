"""Your own login service and its game, in one process.

Its users are those of a forum, which a function asks, and those of an OpenID Connect
issuer.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hmac import compare_digest
from typing import Any

from gatelink import Identity, Server, Session
from gatelink.auth.engine_tokens import EngineTokens
from gatelink.auth.methods import Custom, LoginRefused, Oidc
from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.login.gateways import GatewayInfo, StaticGateways
from gatelink.login.service import LoginService

FORUM = {"ada": (7, "correct horse"), "bob": (8, "battery staple")}
LIFETIME = 3_600.0  # s of a token

engine = MemoryEngine()
tokens = EngineTokens(engine, lifetime=LIFETIME)
server = Server("tcp://127.0.0.1:7000", tokens=tokens)


async def ask_the_forum(credentials: Mapping[str, Any], address: str) -> Identity:
    """A real function asks over the network, within 5 s.

    The reason of LoginRefused is only for the log.
    """
    uid, password = FORUM.get(credentials["user"], (0, ""))
    if not uid or not compare_digest(password.encode(), credentials["password"].encode()):
        raise LoginRefused("the forum does not know this user by this password")
    return Identity(uid, {"name": credentials["user"]})


async def player_of(claims: Mapping[str, Any]) -> Identity:
    """Accept all users of the issuer. A real function keeps the uid of each subject."""
    return Identity(1_000_000 + int(claims["sub"]), {"name": claims["name"]})


@server.on_verified
def enter(session: Session) -> None:
    print(f"{session.claims['name']} is in as {session.uid}")
    session.close()


@asynccontextmanager
async def running(
    listen: str, issuer: str, audience: str, keys: str
) -> AsyncIterator[LoginService]:
    """Run both during the block. keys: the issuer's public keys, https:// or a file."""
    async with engine, server:
        address = str(server.endpoints[0])
        login = LoginService(
            listen,
            engine=engine,
            tokens=tokens,
            lifetime=LIFETIME,
            methods={
                "password": Custom(ask_the_forum),
                "oidc": Oidc(player_of, issuer, audience, keys),
            },
            gateways=StaticGateways(
                [GatewayInfo(id=1, name="here", addresses=(address,))]
            ),
        )
        async with login:
            yield login
