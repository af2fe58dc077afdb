"""Why a request was not done, as `application/problem+json` (RFC 9457): every error there is, in one table."""

from http import HTTPStatus

import msgspec

from gatelink.auth.accounts import AccountExists
from gatelink.auth.errors import InvalidCredential, Unavailable
from gatelink.auth.methods import LoginRefused
from gatelink.auth.passwords import Busy
from gatelink.cluster.engine import EngineError
from gatelink.errors import GatelinkError
from gatelink.login.gateways import NoGateway
from gatelink.login.messages import Problem
from gatelink.login.throttle import TooMany

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1  # s, for what is likely over soon

_TITLES = {422: "Unprocessable Content", 413: "Content Too Large"}  # RFC 9110's; older Pythons have others


class ClientTooOld(GatelinkError):
    """The version of the client is one that is not served any more."""


class ProblemError(GatelinkError):
    """A problem that is the HTTP side's own. headers: further ones of its response."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        self.problem = problem
        self.headers = headers or {}
        super().__init__(problem.code)


def problem(status: int, code: str, detail: str) -> Problem:
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=detail, code=code)


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """What a peer is told of `error`, and the headers that go with it. What is not known here is `internal-error`."""
    match error:
        case ProblemError():
            return error.problem, error.headers
        case TooMany():
            detail = f"too many tries; again in {error.retry_after} s"
            return problem(429, "too-many-tries", detail), {"retry-after": str(error.retry_after)}
        case ClientTooOld():
            return problem(403, "client-too-old", "this version of the client is not served any more"), {}
        case LoginRefused():
            return problem(403, "wrong-credentials", "these credentials log nobody in"), {}
        case AccountExists():
            return problem(409, "name-taken", "the user name is taken"), {}
        case InvalidCredential():
            return problem(422, "invalid-credential", str(error)), {}
        case Busy():
            return _later("busy", "too many passwords wait to be checked")
        case Unavailable():
            return _later("accounts-unavailable", "nobody can be logged in this way at the moment")
        case EngineError():
            return _later("engine-unavailable", "what the servers share cannot be reached at the moment")
        case NoGateway():
            return _later("no-gateway", "no gateway takes players at the moment")
    return problem(500, "internal-error", "the login service failed; the cause is in its log"), {}


def _later(code: str, detail: str) -> tuple[Problem, dict[str, str]]:
    return problem(503, code, detail), {"retry-after": str(RETRY_AFTER)}


def response_of(problem: Problem, headers: dict[str, str]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """(status, headers, body), as ASGI and h11 write them."""
    body = msgspec.json.encode(problem)
    fields = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "cache-control": "no-store", **headers}
    return problem.status, [(name.encode(), value.encode("latin-1")) for name, value in fields.items()], body
