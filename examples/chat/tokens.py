"""Tokens that two processes agree on: a HMAC of the uid, with a secret that both have."""

import hmac
import os

from gatelink import ConfigError, Identity, VerifyError

VARIABLE = "CHAT_SECRET"


class SecretTokens:
    """Makes and checks tokens.

    A program with the secret can log in as any user. In a game only the login has it.
    """

    def __init__(self) -> None:
        """Raises ConfigError without the secret in the environment."""
        self._secret = os.environ.get(VARIABLE, "").encode()
        if len(self._secret) < 32:
            raise ConfigError(
                f"{VARIABLE} has {len(self._secret)} characters; "
                "the chat wants 32 or more that nobody can guess, the same for server "
                f"and robots: export {VARIABLE}=$(openssl rand -hex 32)"
            )

    def token(self, uid: int) -> str:
        """The token of `uid`."""
        return hmac.new(
            self._secret, f"chat token of {uid}".encode(), "sha256"
        ).hexdigest()

    async def verify(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `gatelink.Tokens`."""
        if not hmac.compare_digest(token, self.token(uid).encode()):
            raise VerifyError(f"not the token of uid {uid}")
        return Identity(uid)
