"""Checks the fresh token with which a client renews its login (docs/protocol.md, "Renewal")."""

import asyncio
from typing import Protocol, runtime_checkable

from gatelink import tasks
from gatelink.auth.tokens import Identity, checked
from gatelink.calls import invoke, words_of
from gatelink.errors import GatelinkError, VerifyError
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.login import LoginChecks
from gatelink.session.session import Session

quiet = RateLimitedLogger(Logger("gatelink.sessions"))


@runtime_checkable
class RenewalTokens(Protocol):
    """`Tokens` that check a renewal's token in another way than a login's. Without this, `verify` checks both."""

    async def renew(self, token: bytes, uid: int, source: int, address: str) -> Identity:
        """As `Tokens.verify`, for a session of `uid` that is open."""


class TokenRenewer:
    """Checks the fresh tokens that sessions show, each in a task.

    A call begins a check. The session has at most one under way (session.renewal.Renewal), and gets the result.
    """

    def __init__(self, logins: LoginChecks) -> None:
        tokens = logins.rules.tokens
        self._check = tokens.renew if isinstance(tokens, RenewalTokens) else tokens.verify
        self._logins = logins

    def __call__(self, session: Session, token: str) -> None:
        checking = self._renew(session, token.encode("utf-8", "surrogateescape"))
        self._logins.context.track(tasks.keep(checking, "a renewal"))

    async def _renew(self, session: Session, token: bytes) -> None:
        limits = self._logins.context.limits
        try:
            if len(token) > limits.max_token:
                raise VerifyError(f"a token of {len(token)} bytes is over {limits.max_token} (limits.max_token)")
            async with asyncio.timeout(limits.token_timeout):
                found = await invoke(self._check, token, session.uid, session.source, session.address)
            identity = checked(found, "the check of a renewal")
            if identity.uid != session.uid:
                raise VerifyError(f"the token is of uid {identity.uid}, not of {session.uid}")
        except VerifyError as error:
            quiet.info("renewal refused", uid=session.uid, address=session.address, reason=str(error))
            self._logins.admission.login_failed(session.address)
            session.answer_renewal(False)
        except TimeoutError:
            quiet.error("tokens did not answer", uid=session.uid, seconds=limits.token_timeout)
            session.answer_renewal(False)
        except GatelinkError as error:  # an error of the engine, for example: a traceback would say no more
            quiet.error("renewal impossible", uid=session.uid, error=words_of(error))
            session.answer_renewal(False)
        except Exception as error:
            quiet.error("renewal failed", uid=session.uid, exc_info=error)
            session.answer_renewal(False)
        else:
            proofs = self._logins.sessions.proofs_of(token)
            session.renewed(identity.claims or {}, identity.expires_at, proofs[0])
