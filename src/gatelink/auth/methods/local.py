"""Logins to our own accounts: with a password, or as the guest of a device."""

from collections.abc import Mapping
from typing import Any

from gatelink.auth.accounts import Accounts
from gatelink.auth.errors import LoginRefused
from gatelink.auth.methods.base import text
from gatelink.auth.tokens import Identity

MAX_TEXT = 1_024  # characters of a credential; the limits of accounts are lower
MIN_DEVICE_ID = 16  # characters: 64 random bits in hex, the least that can't be guessed; a UUID has 36
MAX_DEVICE_ID = 128
MIN_DIFFERENT = 8  # characters; all phones without an id send 00000000-0000-0000-0000-000000000000


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
