"""Players log in with tokens from SQLite; a moderator revokes tokens and kicks players.

export ACCOUNTS=$(mktemp -d)/accounts.db; gatelink serve examples.token_store.server:server
"""

import asyncio
import os
from pathlib import Path

from examples.token_store.accounts import SqliteTokens
from examples.token_store.messages import Ban, Banned, Welcome, catalog
from gatelink import Server, Session

tokens = SqliteTokens(Path(os.environ["ACCOUNTS"]))
server = Server("tcp://127.0.0.1:7000", tokens=tokens, catalog=catalog)


@server.on_verified
def welcome(session: Session) -> None:
    claims = session.claims or {}
    session.send(Welcome(claims["name"]))


@server.on(Ban, rate=5)
async def ban(session: Session, message: Ban) -> None:
    claims = session.claims or {}
    if claims["role"] != "moderator":
        session.kick("only a moderator can ban")
        return
    await asyncio.to_thread(tokens.revoke, message.uid)  # first, so that a kicked client can't log in again
    found = server.sessions.get(message.uid)
    if found is not None:
        found.kick("banned by a moderator")
    session.send(Banned(message.uid, sessions=int(found is not None)))


@server.on_closed
def gone(session: Session) -> None:
    assert session.close_code is not None
    print(f"{session.uid} is gone: {session.close_code.label}, {session.close_reason}")
