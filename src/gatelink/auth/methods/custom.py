"""Your own way to log in."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gatelink.auth.errors import Unavailable
from gatelink.auth.tokens import Identity
from gatelink.calls import invoke


class CustomUnavailable(Unavailable):
    """The user's own login function did not answer in time."""


class Custom:
    """Logs in by a function of yours: `async def (credentials, address) -> Identity`.

    It raises LoginRefused, as `LoginMethod.login` does; it has `timeout` seconds, then there is CustomUnavailable.
    Anything else it raises is a bug and is raised as it is.
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
