"""Where a client of a whole cluster gets its logins from: the login service, and the credentials that it keeps."""

import asyncio
from collections.abc import Awaitable, Callable
from random import shuffle
from typing import Protocol

from gatelink.calls import invoke
from gatelink.errors import ConfigError, ConnectError, GatelinkError
from gatelink.login.client import LoginClient, LoginFailed
from gatelink.login.messages import LoginReply

TOKEN_SECONDS = 15.0
"""How long a function that gives tokens may take, as long as a request to the login service."""

MOST_GATEWAYS = 3
"""Other gateways that are tried with one login."""


class Credentials(Protocol):
    """How one user logs in, again and again."""

    async def login(self, client: LoginClient, slot: int) -> LoginReply:
        """Raises LoginFailed, and what getting a token raises."""


class GuestLogin:
    """A device's secret."""

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id

    async def login(self, client: LoginClient, slot: int) -> LoginReply:
        return await client.guest(self._device_id, slot=slot)


class PasswordLogin:
    """A user name and password."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password

    async def login(self, client: LoginClient, slot: int) -> LoginReply:
        return await client.login(self._user, self._password, slot=slot)


class TokenLogin:
    """Tokens that come from elsewhere; the login service names the gateways only."""

    def __init__(self, uid: int, token: Callable[[], object]) -> None:
        self._uid = uid
        self._token = token

    async def login(self, client: LoginClient, slot: int) -> LoginReply:
        try:
            async with asyncio.timeout(TOKEN_SECONDS) as limit:
                token: object = await invoke(self._token)  # type: ignore[arg-type]
        except Exception as error:
            what = f"gave none within {TOKEN_SECONDS:g} s" if limit.expired() else f"failed with {type(error).__name__}"
            raise ConnectError(f"no token: the function given as `token` {what}") from error
        if not isinstance(token, str):
            raise ConnectError(f"no token: the function given as `token` gave a {type(token).__name__}, not a str")
        gateways = [gateway for gateway in await client.servers() if gateway.open]
        if not gateways:
            raise LoginFailed("the login service knows no gateway that takes players", status=503, code="no-gateway")
        shuffle(gateways)
        addresses, key = gateways[0].addresses, gateways[0].public_key
        return LoginReply(uid=self._uid, token=token, expires_at=0.0, addresses=addresses, public_key=key)


class LoginSource:
    """Logs one user in at the login service at `login`, a URL, or with a `LoginClient` that others use, too.

    Raises ConfigError for a url that is none.
    """

    def __init__(self, login: str | LoginClient, credentials: Credentials, slot: int) -> None:
        self._is_ours = isinstance(login, str)
        self._client = LoginClient(login) if isinstance(login, str) else login
        self._credentials = credentials
        self._slot = slot

    async def login(self) -> LoginReply:
        """A fresh token and the gateway to show it to. Raises LoginFailed, and what getting a token raises."""
        return await self._credentials.login(self._client, self._slot)

    async def others(self, reply: LoginReply) -> list[LoginReply]:
        """The same login at other gateways that take players, in any order. Raises LoginFailed."""
        found = [
            LoginReply(reply.uid, reply.token, reply.expires_at, gateway.addresses, gateway.public_key)
            for gateway in await self._client.servers()
            if gateway.open and gateway.addresses != reply.addresses
        ]
        shuffle(found)
        return found[:MOST_GATEWAYS]

    async def has_moved_on(self, reply: LoginReply) -> bool:
        """Whether the gateway of a login is registered no more, and another one takes players. Raises LoginFailed."""
        gateways = await self._client.servers()
        is_there = any(gateway.addresses == reply.addresses for gateway in gateways)
        return not is_there and any(gateway.open for gateway in gateways)

    async def close(self) -> None:
        """Close the HTTP connections, unless they are another's."""
        if self._is_ours:
            await self._client.close()


def credentials_of(
    guest: str | None,
    user: str | None,
    password: str | None,
    uid: int | None,
    token: str | Callable[[], str | Awaitable[str]] | None,
) -> Credentials:
    """The one way to log in that was given. Raises ConfigError."""
    by_password = user is not None or password is not None
    by_token = uid is not None or token is not None
    if (guest is not None) + by_password + by_token != 1:
        raise ConfigError("give one way to log in: guest=, or user= and password=, or uid= and token=")
    if guest is not None:
        return GuestLogin(guest)
    if user is not None and password is not None:
        return PasswordLogin(user, password)
    if uid is not None and token is not None:
        return TokenLogin(uid, token if callable(token) else lambda: token)
    raise ConfigError("user= and password= go together, and so do uid= and token=")


def wait_of(error: GatelinkError) -> float | None:
    """Seconds to wait at least before the next login, after a failed one; None if no login would succeed."""
    if not isinstance(error, LoginFailed):
        return 0.0
    if error.status < 400 or error.status in (408, 425, 429) or error.status >= 500:
        return float(min(error.retry_after or 0, 60))
    return None
