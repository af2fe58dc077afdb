"""Passwords, guests and functions of the user's own: logins that succeed, and refusals that tell the log alone why."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelink.auth.accounts import Accounts
from gatelink.auth.errors import Unavailable
from gatelink.auth.methods import Custom, Guest, LoginMethod, LoginRefused, Password
from gatelink.auth.passwords import PasswordHashing
from gatelink.auth.tokens import Identity
from tests.support import MS

PASSWORD = "correct horse battery"
ADDRESS = "203.0.113.7"


def opened(folder: Path) -> Accounts:
    return Accounts(f"sqlite:///{folder}/accounts.db", passwords=PasswordHashing(memory_kib=8, passes=1))


async def refusal(method: LoginMethod, credentials: Mapping[str, Any]) -> str:
    with pytest.raises(LoginRefused) as refused:
        await method.login(credentials, ADDRESS)
    assert refused.value.__cause__ is None
    return refused.value.reason


async def test_a_password_logs_in_its_account_and_a_wrong_one_reads_like_a_missing_account(tmp_path: Path) -> None:
    async with opened(tmp_path) as accounts:
        method = Password(accounts)
        bob = await accounts.create("Bob", PASSWORD)
        assert await method.login({"user": "bob", "password": PASSWORD, "more": 1}, ADDRESS) == bob
        wrong = await refusal(method, {"user": "bob", "password": "wrong password"})
        assert wrong == await refusal(method, {"user": "alice", "password": PASSWORD})


async def test_a_disabled_account_is_refused_by_every_method_and_the_log_says_which(tmp_path: Path) -> None:
    async with opened(tmp_path) as accounts:
        device = str(uuid4())
        for method, credentials in (
            (Password(accounts), {"user": "bob", "password": PASSWORD}),
            (Guest(accounts), {"device_id": device}),
        ):
            if "user" in credentials:
                await accounts.create("bob", PASSWORD)
            identity = await method.login(credentials, ADDRESS)
            await accounts.disable(identity.uid)
            assert str(identity.uid) in await refusal(method, credentials)


async def test_a_device_is_the_same_guest_each_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as accounts:
        method, device = Guest(accounts), str(uuid4())
        first = await method.login({"device_id": device}, ADDRESS)
        assert await method.login({"device_id": device}, "198.51.100.1") == first
        assert await method.login({"device_id": str(uuid4())}, ADDRESS) != first


@pytest.mark.parametrize(
    "device_id",
    [
        "00000000-0000-0000-0000-000000000000",  # what phones give whose owner allows no id
        "0123456789abcde",
        "x" * 129,
        "0123456789abcdeé",
        "0123456789abcde\n",
        "",
        None,
        12345678901234567890,
        ["0123456789abcdef"],
    ],
)
async def test_an_id_that_others_could_guess_or_have_too_makes_no_guest(device_id: Any, tmp_path: Path) -> None:
    async with opened(tmp_path) as accounts:
        reason = await refusal(Guest(accounts), {"device_id": device_id})
        if isinstance(device_id, str) and len(device_id) > 1:
            assert device_id not in reason


class NoAccounts(Accounts):
    """Says that what reaches the accounts is within the limits."""

    async def check_password(self, user: str, password: str) -> Identity | None:
        assert 0 < len(user) <= 1_024 and 0 < len(password) <= 1_024
        return None

    async def get_or_create_guest(self, device_id: str) -> Identity:
        assert 16 <= len(device_id) <= 128 and device_id.isascii()
        return Identity(1)


NO_ACCOUNTS = NoAccounts()
json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(["user", "password", "device_id", "other"]), json))
def test_whatever_the_credentials_are_they_are_refused_or_somebody(credentials: dict[str, Any]) -> None:
    async def check() -> None:
        for method in (Password(NO_ACCOUNTS), Guest(NO_ACCOUNTS)):
            try:
                await method.login(credentials, ADDRESS)
            except LoginRefused:
                pass

    asyncio.run(check())


async def test_a_function_of_ones_own_is_a_way_to_log_in() -> None:
    async def ticket(credentials: Mapping[str, Any], address: str) -> Identity:
        if credentials.get("ticket") != "gold":
            raise LoginRefused("no gold ticket")
        return Identity(7, {"from": address})

    method: LoginMethod = Custom(ticket)
    assert await method.login({"ticket": "gold"}, ADDRESS) == Identity(7, {"from": ADDRESS})
    assert await refusal(method, {"ticket": "tin"}) == "no gold ticket"


async def test_a_function_that_does_not_answer_is_unavailable_and_cancelled() -> None:
    ended = asyncio.Event()

    async def slow(credentials: Mapping[str, Any], address: str) -> Identity:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    with pytest.raises(Unavailable, match="login function"):
        await Custom(slow, timeout=10 * MS).login({}, ADDRESS)
    assert ended.is_set()


async def test_a_bug_in_the_function_is_raised_as_it_is() -> None:
    async def broken(credentials: Mapping[str, Any], address: str) -> Identity:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await Custom(broken).login({}, ADDRESS)
