"""`gatelink accounts`: upgrade the accounts' database, make accounts, and disable them."""

import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gatelink.errors import ConfigError, GatelinkError, needing
from gatelink.ops import logs, process

if TYPE_CHECKING:
    from gatelink.auth.accounts import Accounts

T = TypeVar("T")

accounts = typer.Typer(
    name="accounts",
    help="Upgrade the accounts' database, make accounts, and disable them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="sqlite:///file or postgresql://user@host/database.", show_default=False),
]
User = Annotated[str | None, typer.Option("--user", metavar="NAME", help="The account with this user name.")]
Uid = Annotated[int | None, typer.Option("--uid", metavar="UID", help="The account with this uid.")]


@accounts.command()
def migrate(url: Url) -> None:
    """Bring the database to the newest schema, in one transaction. Does nothing if it has that schema already.

    Put the database's password into PGPASSWORD or ~/.pgpass. Other users can see the URL in the list of processes.

    Exit status: 0 it has the newest schema, 1 the database fails, 78 the command can't be run as given.
    """
    with needing("login", "accounts"):
        from gatelink.auth.migrations import migrate as to_newest
    before, after = _run(to_newest(url))
    print(f"schema {after}" if before == after else f"schema {after}, before {before or 'none'}")


@accounts.command()
def create(
    url: Url,
    user: Annotated[str, typer.Argument(metavar="USER", help="Its user name.", show_default=False)],
) -> None:
    """Make an account with a password login, and print its uid.

    On a terminal the password is asked for, twice; otherwise it is the first line of standard input.

    Exit status: 0 made, 1 the name is taken, the name or the password is not allowed, or the database fails,
    78 the command can't be run as given.
    """
    with needing("login", "accounts"):
        from gatelink.auth.accounts import Accounts
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")

    async def make() -> int:
        async with Accounts(url) as found:
            return (await found.create(user, password)).uid

    print(_run(make()))


@accounts.command()
def disable(url: Url, user: User = None, uid: Uid = None) -> None:
    """Refuse all logins to an account from now on. Its sessions and tokens stay valid.

    Exit status: 0 done, 1 there is no such account, or the database fails, 78 the command can't be run as given.
    """
    print(f"disabled {_change(url, user, uid, lambda accounts, uid: accounts.disable(uid))}")


@accounts.command()
def enable(url: Url, user: User = None, uid: Uid = None) -> None:
    """Allow logins to a disabled account again.

    Exit status: 0 done, 1 there is no such account, or the database fails, 78 the command can't be run as given.
    """
    print(f"enabled {_change(url, user, uid, lambda accounts, uid: accounts.enable(uid))}")


def _change(url: str, user: str | None, uid: int | None, change: "Callable[[Accounts, int], Awaitable[None]]") -> int:
    """Call `change` with the accounts and the uid of one account. Returns the uid."""
    with needing("login", "accounts"):
        from gatelink.auth.accounts import Accounts, NoAccount
    if (user is None) == (uid is None):
        raise ConfigError("say which account: --user NAME or --uid UID")

    async def find_and_change() -> int:
        async with Accounts(url) as found:
            which = uid if user is None else await found.uid_of(user)
            if which is None:
                raise NoAccount(f"there is no account {user!r}")
            await change(found, which)
            return which

    return _run(find_and_change())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` and return its result. An error other than ConfigError gives one line and exit status 1."""
    try:
        return process.run(work)
    except ConfigError:
        raise
    except GatelinkError as error:
        logs.say(f"gatelink: {error}")
        raise typer.Exit(1) from None
