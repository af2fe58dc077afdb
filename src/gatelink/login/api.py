"""The paths of the login service, as a Litestar application, and the OpenAPI document that describes them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from gatelink.auth.accounts import AccountExists
from gatelink.auth.errors import InvalidCredential, LoginRefused, Unavailable
from gatelink.auth.passwords import Busy
from gatelink.calls import says_yes
from gatelink.cluster.engine import EngineError
from gatelink.errors import GatelinkError, importing
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.login.gateways import NoGateway
from gatelink.login.logins import Logins
from gatelink.login.messages import (
    RETRY_AFTER,
    Credentials,
    GuestCredentials,
    LegacyCreated,
    LegacyCreation,
    LegacyError,
    LegacyReply,
    LegacyRequest,
    LoginReply,
    LogoutRequest,
    OidcCredentials,
    Problem,
    ServerEntry,
    credentials_of,
    problem,
    response_of,
)
from gatelink.login.page import POLICY, page
from gatelink.login.throttle import TooMany
from gatelink.version import __version__

with importing(__name__, "login"):
    from litestar import Litestar, Request, Response, get, post
    from litestar.datastructures import ResponseHeader
    from litestar.exceptions import HTTPException, ValidationException
    from litestar.handlers import HTTPRouteHandler
    from litestar.openapi import OpenAPIConfig, ResponseSpec
    from litestar.params import JSONBody
    from litestar.types import ExceptionHandlersMap

quiet = RateLimitedLogger(Logger("gatelink.login.http"))

DOCUMENT = "/openapi.json"
PAGE = "/docs"

AnyRequest = Request[Any, Any, Any]

_MEANINGS = {
    400: "The body is no JSON.",
    403: "The credentials are not valid.",
    408: "The body did not come in time.",
    409: "The user name is taken.",
    413: "The body is too large.",
    415: "The content type is not JSON.",
    422: "A field is missing or has an invalid value.",
    429: "Too many tries; `Retry-After` has the seconds to wait.",
    500: "The service failed.",
    503: "The service is busy or not available; `Retry-After` has the seconds to wait.",
}
_EVERY_POST = (400, 408, 413, 415, 422, 429, 500, 503)

_MALFORMED = problem(400, "malformed-body", "the body is no JSON in UTF-8, or nested too deeply")

LegacyStatus = Literal["always-200", "original"]
"""How clients of the original engine are refused: by `Result` alone, or by the status, as that engine did."""

_LEGACY_RESULTS = {429: 2, 503: 3, 500: 3}  # by the problem's status
_LEGACY_WRONG, _LEGACY_TOO_OLD = 1, 4

_ORIGINAL = {
    400: "The body can't be read.",
    403: "The credentials are not valid, or the client is too old.",
    406: "Too many tries, or no gateway takes players.",
    500: "The service failed, or is not available.",
}
_ORIGINAL_BUSY = ("busy", "no-gateway", "too-many-tries")


class ClientTooOld(GatelinkError):
    """The version of the client is no longer served."""


class ProblemError(GatelinkError):
    """A problem of the HTTP request itself. headers: further headers of its response."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        self.problem = problem
        self.headers = headers or {}
        super().__init__(problem.code)


def build(
    logins: Logins,
    trouble: Callable[[], str],
    *,
    legacy_status: LegacyStatus = "always-200",
    accept_version: Callable[[str], bool] | None = None,
) -> Litestar:
    """The application, with a path for each method of `logins`.

    trouble: why no login can succeed now, "" if one can; clients see it. accept_version: whether to serve clients of
    the original engine with this ClientVer; None: serve all.
    """
    routes = [*_routes(logins), *_legacy_routes(logins, legacy_status, accept_version), _health(trouble)]
    document = _document(routes)
    encoded = msgspec.json.encode(document)
    for_people = page(document, DOCUMENT)

    @get(DOCUMENT, include_in_schema=False, media_type="application/vnd.oai.openapi+json")
    async def openapi() -> bytes:
        return encoded

    @get(PAGE, include_in_schema=False, media_type="text/html")
    async def docs() -> Response[str]:
        return Response(for_people, headers={"content-security-policy": POLICY})

    @get("/", include_in_schema=False, status_code=307)
    async def home() -> Response[bytes]:
        return Response(b"", headers={"location": PAGE}, media_type="text/plain")

    return _litestar([*routes, openapi, docs, home], None)


def _litestar(routes: Sequence[HTTPRouteHandler], config: OpenAPIConfig | None) -> Litestar:
    return Litestar(
        routes,
        openapi_config=config,
        exception_handlers={HTTPException: _on_error, Exception: _on_error},
        response_headers=[
            ResponseHeader(name="cache-control", value="no-store", documentation_only=False),
            ResponseHeader(name="x-content-type-options", value="nosniff", documentation_only=False),
        ],
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )


def _document(routes: Sequence[HTTPRouteHandler]) -> dict[str, Any]:
    config = OpenAPIConfig(
        title="gatelink login", version=__version__, description="Logs players in and gives the address to connect to."
    )
    return _litestar(routes, config).openapi_schema.to_schema()


def _routes(logins: Logins) -> list[HTTPRouteHandler]:
    @_route("/v1/login", Credentials, "Log in with a user name and a password", 403)
    async def login(data: JSONBody[Credentials], request: AnyRequest) -> LoginReply:
        return await logins.password(credentials_of(data), _address(request))

    @_route("/v1/register", Credentials, "Make an account, and log in to it", 409, status_code=201)
    async def register(data: JSONBody[Credentials], request: AnyRequest) -> LoginReply:
        return await logins.register(data.user, data.password, _address(request), data.slot)

    @_route("/v1/guest", GuestCredentials, "Log in as the guest of a device; the first login makes the account", 403)
    async def guest(data: JSONBody[GuestCredentials], request: AnyRequest) -> LoginReply:
        return await logins.guest(data.device_id, _address(request), data.slot)

    @_route("/v1/oidc", OidcCredentials, "Log in with an OpenID Connect ID token", 403)
    async def oidc(data: JSONBody[OidcCredentials], request: AnyRequest) -> LoginReply:
        return await logins.oidc(credentials_of(data), _address(request), data.slot)

    @_route("/v1/logout", LogoutRequest, "End a token; an unknown or ended token is no error", status_code=204)
    async def logout(data: JSONBody[LogoutRequest]) -> None:
        await logins.logout(data.token)

    @get("/v1/servers", operation_id="servers", summary="List the gateways", responses=_problems(429, 500))
    async def servers() -> list[ServerEntry]:
        return [
            ServerEntry(gateway.id, gateway.name, gateway.by_transport, gateway.public_key, gateway.open)
            for gateway in logins.gateways.all()
        ]

    routes: list[HTTPRouteHandler] = [logout, servers]
    if "password" in logins.methods:
        routes.append(login)
    if logins.accounts is not None:
        routes.append(register)
    if "guest" in logins.methods:
        routes.append(guest)
    if "oidc" in logins.methods:
        routes.append(oidc)
    return routes


def _legacy_routes(
    logins: Logins, status: LegacyStatus, accept_version: Callable[[str], bool] | None
) -> list[HTTPRouteHandler]:
    """The paths for clients of the original engine."""
    responses = _problems(408, 413, 429, 503)
    if status == "original":
        description = "A refusal has the original's status, and the reason in `Error`."
        responses |= {
            code: ResponseSpec(LegacyError, description=text, generate_examples=False)
            for code, text in _ORIGINAL.items()
        }
    else:
        description = "The status is always 200; `Result` tells success from failure."

    def handlers(refused: type[LegacyReply] | type[LegacyCreated]) -> ExceptionHandlersMap:
        def handler(_: AnyRequest, error: Exception) -> Response[Any]:
            return _legacy_refusal(error, refused, status)

        return {HTTPException: handler, Exception: handler}

    @post(
        "/login",
        status_code=200,
        operation_id="legacy_login",
        summary="Log in, as clients of the original engine do",
        description=description,
        responses=responses,
        exception_handlers=handlers(LegacyReply),
        before_request=_check_readable,
    )
    async def legacy_login(data: JSONBody[LegacyRequest], request: AnyRequest) -> LegacyReply:
        if accept_version is not None and not says_yes(accept_version, data.client_ver or ""):
            raise ClientTooOld("ClientVer is not accepted")
        reply = await logins.password(credentials_of(data), _address(request), transport="tcp")
        return LegacyReply(UID=reply.uid, Token=reply.token, LobbyAddr=reply.addresses["tcp"].removeprefix("tcp://"))

    @post(
        "/create",
        status_code=200,
        operation_id="legacy_create",
        summary="Make an account, as robots of the original engine do",
        description=f"An account that exists is no error if the password is right. {description}",
        responses=responses,
        exception_handlers=handlers(LegacyCreated),
        before_request=_check_readable,
    )
    async def legacy_create(data: JSONBody[LegacyCreation], request: AnyRequest) -> LegacyCreated:
        uid, is_new = await logins.create(data.user, data.password, _address(request))
        return LegacyCreated(UID=uid, ResultMsg="" if is_new else "the account exists")

    routes: list[HTTPRouteHandler] = []
    if "password" in logins.methods:
        routes.append(legacy_login)
    if logins.accounts is not None and "password" in logins.methods:
        routes.append(legacy_create)
    return routes


def _route(
    path: str, body: type[msgspec.Struct], summary: str, *problems: int, status_code: int = 200
) -> HTTPRouteHandler:
    """A POST of the current API, named after its path. problems: statuses besides those that every POST has."""
    decode = msgspec.json.Decoder(body).decode

    async def check(request: AnyRequest) -> None:
        """Refuse a body with another content type, and JSON whose types do not match exactly."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ProblemError(problem(415, "no-json", "send JSON, with content-type: application/json"))
        sent = await request.body()
        _refuse_unreadable(sent)
        try:
            decode(sent)
        except msgspec.ValidationError as error:
            raise ProblemError(problem(422, "invalid-body", str(error))) from None
        except msgspec.DecodeError:
            return  # an empty body, which the framework refuses

    responses = _problems(*problems, *_EVERY_POST)
    name = path.rpartition("/")[2]
    return post(
        path,
        status_code=status_code,
        operation_id=name,
        summary=summary,
        responses=responses,
        before_request=check,
    )


async def _check_readable(request: AnyRequest) -> None:
    _refuse_unreadable(await request.body())


def _refuse_unreadable(sent: bytes) -> None:
    """Raise ProblemError for a body that is no JSON. The same error of a login method is no fault of the body."""
    try:
        msgspec.json.decode(sent)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        if sent:  # the framework knows an empty body
            raise ProblemError(_MALFORMED) from None


def _health(trouble: Callable[[], str]) -> HTTPRouteHandler:
    @get(
        "/healthz",
        media_type="text/plain",
        operation_id="health",
        summary="Whether logins can succeed",
        responses=_problems(429, 500, 503),
    )
    async def health() -> str:
        if why := trouble():
            raise ProblemError(problem(503, "unhealthy", why), {"retry-after": "1"})
        return "ok\n"

    return health


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            Problem, description=_MEANINGS[status], media_type="application/problem+json", generate_examples=False
        )
        for status in statuses
    }


def _address(request: AnyRequest) -> str:
    return request.client.host if request.client else ""


def _answer(what: Problem, headers: dict[str, str]) -> Response[bytes]:
    status, fields, body = response_of(what, headers)
    found = {name.decode(): value.decode("latin-1") for name, value in fields}
    return Response(body, status_code=status, media_type=found.pop("content-type"), headers=found)


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem that the client gets for `error`, and its headers. An unknown error is `internal-error`."""
    match error:
        case ProblemError():
            return error.problem, error.headers
        case TooMany():
            detail = f"too many tries; try again in {error.retry_after} s"
            return problem(429, "too-many-tries", detail), {"retry-after": str(error.retry_after)}
        case ClientTooOld():
            return problem(403, "client-too-old", "this version of the client is no longer served; update it"), {}
        case LoginRefused():
            return problem(403, "wrong-credentials", "the credentials are not valid"), {}
        case AccountExists():
            return problem(409, "name-taken", "the user name is taken"), {}
        case InvalidCredential():
            return problem(422, "invalid-credential", str(error)), {}
        case Busy():
            return _later("busy", "too many passwords wait to be checked")
        case Unavailable():
            return _later("accounts-unavailable", "this way to log in is not available now")
        case EngineError():
            return _later("engine-unavailable", "the engine of the servers can't be reached now")
        case NoGateway():
            return _later("no-gateway", "no gateway takes players now")
    return problem(500, "internal-error", "the login service failed; the cause is in its log"), {}


def _later(code: str, detail: str) -> tuple[Problem, dict[str, str]]:
    return problem(503, code, detail), {"retry-after": str(RETRY_AFTER)}


def _problem(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem that the client gets for `error`. A fault of the service also goes to the log."""
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _http_problem(error)
    found, headers = problem_of(error)
    if found.status == 500:
        quiet.error("request failed", exc_info=error)
    return found, headers


def _on_error(_: AnyRequest, error: Exception) -> Response[bytes]:
    return _answer(*_problem(error))


def _http_problem(error: HTTPException) -> tuple[Problem, dict[str, str]]:
    """The problem for an error of the framework, in our words: its own may quote the body."""
    if isinstance(error, ValidationException):
        return problem(422, "invalid-body", _what_is_invalid(error)), {}
    match error.status_code:
        case 404:
            return problem(
                404,
                "no-such-path",
                f"there is no such path, or its login method is not configured; {PAGE} lists the paths",
            ), {}
        case 405:
            return problem(405, "no-such-method", "the path has other methods, see Allow"), dict(error.headers or {})
        case 400:
            return _MALFORMED, {}
    return problem(error.status_code, "refused", "the request can't be served"), {}


def _what_is_invalid(error: ValidationException) -> str:
    """The first violated rule. The words of msgspec have names and limits, never values."""
    found = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    where, what = found.get("key", "data"), found.get("message", "'data'")
    if where != "data":
        return f"{where}: {what}"
    return "there is no body" if what == "'data'" else what


def _legacy_refusal(
    error: Exception, refused: type[LegacyReply] | type[LegacyCreated], status: LegacyStatus
) -> Response[Any]:
    """The answer to an error in the format of the original engine."""
    found, headers = _problem(error)
    headers = {**headers, "cache-control": "no-store"}
    if status == "original":
        return Response(LegacyError(found.detail), status_code=_original_status(found), headers=headers)
    result = _LEGACY_TOO_OLD if found.code == "client-too-old" else _LEGACY_RESULTS.get(found.status, _LEGACY_WRONG)
    return Response(refused(Result=result, ResultMsg=found.detail), status_code=200, headers=headers)


def _original_status(found: Problem) -> int:
    """The status that the original engine uses for the problem."""
    if found.code in _ORIGINAL_BUSY:
        return 406
    if found.status >= 500:
        return 500
    return 403 if found.status in (403, 409) else 400
