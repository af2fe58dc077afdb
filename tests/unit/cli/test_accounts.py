"""`gatelink accounts`: what an operator does to the accounts, with no password on the command line."""

import asyncio
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatelink import ConfigError
from gatelink.auth.accounts import AccountDisabled, Accounts
from gatelink.auth.passwords import PasswordHashing
from gatelink.auth.tokens import Identity
from gatelink.cli import app
from tests.support import TEST_TIMEOUT

PASSWORD = "correct horse battery"


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(app, ["accounts", *arguments], input=given)


def login(url: str, user: str, password: str) -> Identity | None:
    async def check() -> Identity | None:
        async with Accounts(url, passwords=PasswordHashing()) as accounts:
            return await accounts.check_password(user, password)

    return asyncio.run(check())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/accounts.db"


def test_an_account_that_was_created_logs_in_with_the_password_from_standard_input(url: str) -> None:
    made = run("create", url, "Bob", given=f"{PASSWORD}\nmore\n")
    assert (made.exit_code, made.stdout) == (0, "1000000\n")
    assert login(url, "bob", PASSWORD) == Identity(1_000_000, {"user": "Bob"})
    assert PASSWORD not in made.output


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(url: str) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "gatelink", "accounts", "create", url, "bob"]
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, start_new_session=True)
    os.close(terminal)
    shown = b""
    try:
        for prompt in (b"Password: ", b"Repeat for confirmation: "):  # with the space, which comes when echo is off
            while prompt not in shown:
                assert select.select([controller], [], [], TEST_TIMEOUT)[0], f"only {shown!r} was shown"
                shown += os.read(controller, 1024)
            os.write(controller, PASSWORD.encode() + b"\n")
        out, _ = process.communicate(timeout=TEST_TIMEOUT)
    finally:
        process.kill()
        process.wait()
        os.close(controller)
    assert (process.returncode, out) == (0, b"1000000\n")
    assert PASSWORD.encode() not in shown
    assert login(url, "bob", PASSWORD)


@pytest.mark.parametrize(
    ("user", "given", "words"),
    [
        ("BOB", PASSWORD, "taken"),
        ("x", PASSWORD, "3 to 64"),
        ("alice", "short", "8 or more"),
        ("alice", "", "8 or more"),
    ],
)
def test_an_account_that_cannot_be_is_one_line_and_status_1(user: str, given: str, words: str, url: str) -> None:
    run("create", url, "bob", given=PASSWORD)
    result = run("create", url, user, given=given)
    assert result.exit_code == 1 and not result.stdout
    assert words in result.stderr and result.stderr.count("\n") == 1 and PASSWORD not in result.stderr


def test_a_disabled_user_is_out_until_enabled_by_name_or_uid(url: str) -> None:
    run("create", url, "bob", given=PASSWORD)
    for which in (["--user", "BOB"], ["--uid", "1000000"]):
        assert run("disable", url, *which).stdout == "disabled 1000000\n"
        with pytest.raises(AccountDisabled):
            login(url, "bob", PASSWORD)
        assert run("enable", url, *which).stdout == "enabled 1000000\n"
        assert login(url, "bob", PASSWORD)


@pytest.mark.parametrize("which", [["--user", "alice"], ["--uid", "77"]])
def test_an_account_that_is_not_there_is_status_1(which: list[str], url: str) -> None:
    result = run("disable", url, *which)
    assert result.exit_code == 1 and which[1] in result.stderr


@pytest.mark.parametrize("which", [[], ["--user", "alice", "--uid", "77"]])
def test_which_account_must_be_said_once(which: list[str], url: str) -> None:
    result = run("disable", url, *which)
    assert isinstance(result.exception, ConfigError) and "--user NAME or --uid UID" in str(result.exception)


def test_postgresql_is_migrated_by_command_before_anything_else_works(postgres_url: str) -> None:
    refused = run("create", postgres_url, "bob", given=PASSWORD)
    assert isinstance(refused.exception, ConfigError) and "gatelink accounts migrate" in str(refused.exception)
    assert run("migrate", postgres_url).stdout == "schema 0001, before none\n"
    assert run("migrate", postgres_url).stdout == "schema 0001\n"
    assert run("create", postgres_url, "bob", given=PASSWORD).stdout == "1000000\n"


def test_a_database_that_is_away_is_one_line_without_its_password() -> None:
    result = run("migrate", "postgresql://me:s3cret@127.0.0.1:9/game")
    assert result.exit_code == 1 and "127.0.0.1:9" in result.stderr and "s3cret" not in result.output
