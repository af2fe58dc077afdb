"""Logs in over HTTP, and then in to the game: by a forum's password, or by the ID token of an issuer."""

from gatelink import connect
from gatelink.login.client import LoginClient


async def main(url: str, user: str = "", password: str = "", id_token: str = "") -> int:
    """The uid that it got. Raises LoginFailed, whose `code` says why."""
    async with LoginClient(url) as client:
        reply = await (client.oidc(id_token) if id_token else client.login(user, password))
    session = await connect(reply.addresses["tcp"], uid=reply.uid, token=reply.token)
    await session.wait_closed()
    return session.uid
