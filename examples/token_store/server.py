"""Players log in with tokens from SQLite; a moderator revokes tokens and kicks players.

export ACCOUNTS=$(mktemp -d)/accounts.db
gatelink serve examples.token_store.server:server

In another terminal, with the same ACCOUNTS, a player logs in:
ADA=$(python -m examples.token_store.accounts $ACCOUNTS 7 ada)
python -m examples.token_store.client 7 $ADA

In a third one, a moderator bans the player:
BOB=$(python -m examples.token_store.accounts $ACCOUNTS 8 bob moderator)
python -m examples.token_store.client 8 $BOB 7
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
    # First, so that a client that is kicked from all its devices can't log in again.
    await asyncio.to_thread(tokens.revoke, message.uid)
    ended = server.sessions.kick(message.uid, reason="banned by a moderator")
    session.send(Banned(message.uid, sessions=ended))


@server.on_closed
def gone(session: Session) -> None:
    assert session.close_code is not None
    print(f"{session.uid} is gone: {session.close_code.label}, {session.close_reason}")
