"""`gatelink sessions`: list a user's sessions."""

from datetime import UTC, datetime

from gatelink.cli.engine import users_of
from gatelink.cli.options import Config, Dev, Uid
from gatelink.cli.running import run_to_end
from gatelink.net.user_kicks import UserSession
from gatelink.ops.logs import configure
from gatelink.settings import Settings, load


def sessions(uid: Uid, config: Config, dev: Dev = False) -> None:
    """List a user's sessions at the gateways of a running cluster, one a line.

    Exit status: 0 done, also if no session is open, 1 the engine is away, 78 it can't run as configured.
    """
    settings = load(config, dev=dev)
    configure(settings.logs.format, "error")
    run_to_end(_list(settings, uid))


async def _list(settings: Settings, uid: int) -> None:
    async with users_of(settings, "sessions") as users:
        found = await users.sessions(uid)
    for session in found:
        print(session_line(session))
    if not found:
        print(f"no session of uid {uid} is open")


def session_line(session: UserSession) -> str:
    """A session of a user, for people."""
    if not session.since:
        return f"gateway {session.gateway}, slot {session.slot}; the gateway does not answer"
    since = datetime.fromtimestamp(session.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    waiting = "" if session.is_connected else ", waits for its client to resume"
    return f"gateway {session.gateway}, slot {session.slot}, since {since}{waiting}"
