"""`gatelink kick`: end a user's sessions and tokens."""

from typing import TYPE_CHECKING, Annotated

import typer

from gatelink.cli.engine import users_of
from gatelink.cli.options import Config, Dev, Uid
from gatelink.cli.running import run_to_end
from gatelink.cli.sessions import session_line
from gatelink.ops.logs import configure, say
from gatelink.settings import Settings, load

if TYPE_CHECKING:
    from gatelink.cluster.kicks import Kicked


def kick(
    uid: Uid,
    config: Config,
    slot: Annotated[
        int | None, typer.Option(min=0, max=255, help="Only the session of this slot; the tokens stay.")
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For the client and the log, up to 123 characters.")] = "",
    dev: Dev = False,
) -> None:
    """End a user's sessions at all gateways of a running cluster, with their tickets, and end the user's tokens.

    A login after that is allowed, with a new token. It prints the sessions that were ended.

    Exit status: 0 done, also if no session was open; 1 the engine is away, a gateway has not answered, or the tokens
    could not be ended; 78 it can't run as configured.
    """
    settings = load(config, dev=dev)
    configure(settings.logs.format, "error")
    run_to_end(_kick(settings, uid, slot, reason))


async def _kick(settings: Settings, uid: int, slot: int | None, reason: str) -> None:
    from gatelink.cluster.engine import NoResponder
    from gatelink.errors import RequestFailed

    async with users_of(settings, "kick") as users:
        try:
            kicked = await users.kick(uid, slot, reason)
        except NoResponder:
            trouble = "no gateway is there to end the user's tokens; a gateway that comes ends the sessions only"
        except RequestFailed as error:
            trouble = f"the user's tokens may not be ended: {error}; a gateway tries again"
        else:
            trouble = _print(uid, kicked)
    if trouble:
        say(f"gatelink: {trouble}")
        raise typer.Exit(1)


def _print(uid: int, kicked: "Kicked") -> str:
    """Print what was ended; returns what is left to do, "" for nothing."""
    for session in kicked.ended:
        print(f"ended: {session_line(session)}")
    if not kicked.ended:
        print(f"no session of uid {uid} was open")
    if not kicked.unanswered:
        return ""
    ids = ", ".join(map(str, kicked.unanswered))
    return f"no answer of gateway {ids}: it ends the user's sessions when it is back within an hour"
