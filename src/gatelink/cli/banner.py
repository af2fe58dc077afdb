"""What a person needs once a server or a cluster is ready: where to play and connect, how to watch and stop it."""

from collections.abc import Sequence

from gatelink.ops import logs, terminal
from gatelink.version import __version__

MOST_ADDRESSES = 4


def show(
    *,
    page: str = "",
    login: str = "",
    connect: Sequence[str] = (),
    admin: Sequence[str] = (),
    watch: str = "",
) -> None:
    """Write the block, if standard error is a terminal. page, login: URLs. connect: endpoints. admin: host:port."""
    if not terminal.is_terminal():
        return
    rows = {
        "play at": page,
        "log in at": f"{login}/docs" if login else "",
        "connect to": _some(connect),
        "admin": _some([f"http://{address}/metrics" for address in admin]),
        "watch with": watch,
        "stop with": "Ctrl-C",
    }
    heading = terminal.coloured(f"gatelink {__version__} is ready", f"1;38;5;{terminal.GREEN}")
    lines = [f"  {terminal.coloured(f'{name:<12}', '2')}{value}" for name, value in rows.items() if value]
    logs.write("\n".join(["", heading, "", *lines, ""]))


def _some(addresses: Sequence[str]) -> str:
    more = len(addresses) - MOST_ADDRESSES
    return ", ".join(addresses[:MOST_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
