"""The interface of a login method, and those that need no other server: Password, Guest, Custom."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from gatelink.auth.accounts import Accounts
from gatelink.auth.errors import LoginRefused, Unavailable
from gatelink.auth.tokens import Identity
from gatelink.calls import invoke

MAX_TEXT = 1_024  # characters of a credential; the limits of accounts are lower
MIN_DEVICE_ID = 16  # characters: 64 random bits in hex, the least that can't be guessed; a UUID has 36
MAX_DEVICE_ID = 128
MIN_DIFFERENT = 8  # characters; all phones without an id send 00000000-0000-0000-0000-000000000000


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


class Password:
    """Credentials `user` and `password` of an account."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        user, password = text(credentials, "user", MAX_TEXT), text(credentials, "password", MAX_TEXT)
        identity = await self._accounts.check_password(user, password)
        if identity is None:
            raise LoginRefused("wrong user name or password")
        return identity


class Guest:
    """Credential `device_id`: the account of this device, made the first time it is seen.

    The id is the only secret of a guest. The app draws it at random and keeps it: 16 to 128 printable ASCII characters,
    at least 8 of them different. Anyone with the id can log in as the guest, so use no id that other apps can read.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        device_id = text(credentials, "device_id", MAX_DEVICE_ID)
        if len(device_id) < MIN_DEVICE_ID or len(set(device_id)) < MIN_DIFFERENT:
            raise LoginRefused(
                f"device_id has {len(device_id)} characters, {len(set(device_id))} different; "
                f"it needs {MIN_DEVICE_ID} and {MIN_DIFFERENT}, so that it can't be guessed"
            )
        if not (device_id.isascii() and device_id.isprintable()):
            raise LoginRefused("device_id has other characters than printable ASCII")
        return await self._accounts.get_or_create_guest(device_id)


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
