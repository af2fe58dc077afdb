"""Log in over HTTP, by a forum's password or an ID token, and then to the game."""

from gatelink import connect
from gatelink.login.client import LoginClient


async def main(url: str, user: str = "", password: str = "", id_token: str = "") -> int:
    """The uid of the login. Raises LoginFailed; its `code` is the reason."""
    async with LoginClient(url) as client:
        reply = await (
            client.oidc(id_token) if id_token else client.login(user, password)
        )
    session = await connect(reply.addresses["tcp"], uid=reply.uid, token=reply.token)
    await session.wait_closed()
    return session.uid
