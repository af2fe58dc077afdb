"""The interface of a login method, and the method that calls a function of the application."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from gatelink.auth.errors import LoginRefused, Unavailable
from gatelink.auth.tokens import Identity
from gatelink.calls import invoke


class LoginMethod(Protocol):
    """One way to log in: `Password`, `Guest`, `Oidc`, `Custom`, or your own class."""

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        """The identity that the credentials prove.

        credentials: as the client sent them, with any keys and any JSON values; they never go to a log. address: where
        the client connects from, for policy and for the log.

        Raises LoginRefused, or a `gatelink.auth.errors.Unavailable` when it can't decide right now.
        """
        ...


def text(credentials: Mapping[str, Any], name: str, max_length: int) -> str:
    """The credential `name`: a text of 1 to `max_length` characters. Raises LoginRefused, without the value."""
    value = credentials.get(name)
    if not isinstance(value, str) or not value:
        raise LoginRefused(f"the credentials have no text {name!r}")
    if len(value) > max_length:
        raise LoginRefused(f"{name} has {len(value)} characters; at most {max_length} are read")
    return value


class CustomUnavailable(Unavailable):
    """The application's own login function did not answer in time."""


class Custom:
    """Logs in by a function of the application: `async def (credentials, address) -> Identity`.

    The function raises LoginRefused, as `LoginMethod.login` does. After `timeout` seconds it is cancelled, and `login`
    raises CustomUnavailable. Any other exception of the function is a bug, and `login` raises it unchanged.
    """

    def __init__(
        self, function: Callable[[Mapping[str, Any], str], Awaitable[Identity]], *, timeout: float = 5.0
    ) -> None:
        self._function = function
        self._timeout = timeout

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await invoke(self._function, credentials, address)
        except TimeoutError:
            if not limit.expired():
                raise  # the function's own
            raise CustomUnavailable(f"the login function gave no answer within {self._timeout:g} s") from None
