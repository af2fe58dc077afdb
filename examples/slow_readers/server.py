"""Slow readers delay nobody else.

Each gets what it asked for: the newest still, recent ones, or all.

gatelink serve examples.slow_readers.server:server
"""

from examples.slow_readers.messages import Download, Part, Still, Watch, catalog
from gatelink import Full, Limits, Server, Session, StaticTokens

PICTURE = bytes(200_000)
FILM = bytes(8_000_000)
PART = 50_000
LATEST = 1  # a key

server = Server(
    "tcp://127.0.0.1:7000",
    tokens=StaticTokens(),
    catalog=catalog,
    tick_hz=50,
    limits=Limits(max_outbox_bytes=1_000_000),
)
number = 0
is_on = True  # the camera; slow.py turns it off, and takes its stills itself


@server.on(Watch)
def watch(session: Session, message: Watch) -> None:
    session.data = message.how


@server.on_tick
def tick(seconds: float) -> None:
    if is_on:
        take_picture()


def take_picture() -> None:
    global number
    number += 1
    still = Still(number, PICTURE)
    watchers: dict[str, list[Session]] = {"latest": [], "recent": [], "all": []}
    for session in server.sessions:
        if session.data is not None:
            watchers[session.data].append(session)
    server.sessions.broadcast(still, to=watchers["latest"], key=LATEST)
    server.sessions.broadcast(still, to=watchers["recent"], full=Full.DROP_OLDEST)
    # Full.CLOSE: if it does not fit, close 4006
    server.sessions.broadcast(still, to=watchers["all"])


@server.on(Download)
async def download(session: Session, message: Download) -> None:
    parts = len(FILM) // PART
    for part in range(parts):
        session.send(Part(part + 1, parts, FILM[part * PART : (part + 1) * PART]))
        await session.drain()  # waits for the socket: as fast as the peer reads
