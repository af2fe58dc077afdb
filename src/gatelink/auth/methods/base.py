"""What every way to log in has in common."""

from collections.abc import Mapping
from typing import Any, Protocol

from gatelink.auth.tokens import Identity
from gatelink.errors import GatelinkError


class LoginRefused(GatelinkError):
    """These credentials log nobody in.

    `reason` is for the log: it may say whether an account exists, so the client learns only that it was refused.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class LoginMethod(Protocol):
    """One way to log in: `Password`, `Guest`, `Oidc`, `Custom`, or your own class."""

    async def login(self, credentials: Mapping[str, Any], address: str) -> Identity:
        """Who shows these credentials.

        `credentials` is what the client sent: any keys, any JSON values; none of it goes to a log. `address` is where
        it connects from, for policy and for the log.

        Raises LoginRefused, or an `gatelink.auth.errors.Unavailable` when it can't tell right now.
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
