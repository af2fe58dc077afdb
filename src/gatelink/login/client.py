"""A client of the login service, for games, robots, tests and tools: it gets the token and address for `connect`.

It needs only the extra `client`. Whatever answers at the address, a method returns its result or raises LoginFailed.
"""

import asyncio
from typing import NoReturn, Self, TypeVar

import msgspec

from gatelink.errors import ConfigError, GatelinkError, importing
from gatelink.login.messages import LoginReply, Problem, ServerEntry

with importing(__name__, "client"):
    import httpx

TIMEOUT = 15.0  # s that one request may take in all; the service's own limit is shorter
MAX_REPLY = 1_048_576  # bytes read of a reply; a list of 1,000 gateways has about 200,000
MAX_WORDS = 300  # characters of a reply that go into an error's text

T = TypeVar("T")

_problem = msgspec.json.Decoder(Problem).decode


class LoginFailed(GatelinkError):
    """The service refused, can't be reached, or is no login service. `__cause__` is the error below, if there is one.

    status: of HTTP, 0 without an answer. code: of the problem, as `wrong-credentials`; "" without one. retry_after:
    seconds to wait before the next try, None if the answer has none. url: the request's, without user and password.
    """

    def __init__(
        self, text: str, *, status: int = 0, code: str = "", retry_after: int | None = None, url: str = ""
    ) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.url = url
        super().__init__(text)


class LoginClient:
    """Requests to the login service at `url`. Every method raises LoginFailed.

    async with LoginClient("http://127.0.0.1:8080") as client:
        reply = await client.guest(device_id)
        session = await connect(reply.addresses["tcp"], uid=reply.uid, token=reply.token)

    slot: which of the user's devices logs in, 0 to 255; a login ends the older tokens of that slot.
    timeout: seconds for one request in all. Redirects are not followed: a password goes to `url` alone. Raises
    ConfigError for a url that is not http:// or https:// and a host.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError, UnicodeError) as error:
            raise ConfigError(f"the login service's URL is not one ({type(error).__name__}); {_URL_FIX}") from None
        shown = str(parsed.copy_with(username=None, password=None, query=None, fragment=None))
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"the login service's URL {shown!r} has no scheme and host; {_URL_FIX}")
        self.url = shown.rstrip("/")
        """Of the service, without user and password."""
        self._timeout = timeout
        # A small compressed reply could be huge once decompressed.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def register(self, user: str, password: str, *, slot: int = 0) -> LoginReply:
        """Make an account, and log in to it."""
        return await self._login("/v1/register", {"user": user, "password": password, "slot": slot})

    async def login(self, user: str, password: str, *, slot: int = 0) -> LoginReply:
        """Log in by a password. For wrong credentials, `code` of the error is `wrong-credentials`."""
        return await self._login("/v1/login", {"user": user, "password": password, "slot": slot})

    async def guest(self, device_id: str, *, slot: int = 0) -> LoginReply:
        """Log in by a device's secret, 16 to 128 characters drawn at random. The first login makes the account."""
        return await self._login("/v1/guest", {"device_id": device_id, "slot": slot})

    async def oidc(self, id_token: str, *, slot: int = 0) -> LoginReply:
        """Log in by an ID token of an OpenID Connect issuer. The first login makes the account."""
        return await self._login("/v1/oidc", {"id_token": id_token, "slot": slot})

    async def logout(self, token: str) -> None:
        """End the token."""
        status, _, content = await self._ask("POST", "/v1/logout", {"token": token})
        if status != 204 or content:
            self._no_answer("POST", "/v1/logout", status, f"{len(content)} bytes, not 204 without a body")

    async def servers(self) -> list[ServerEntry]:
        """The gateways that are known."""
        return self._decoded("GET", "/v1/servers", await self._ask("GET", "/v1/servers"), list[ServerEntry])

    async def _login(self, path: str, body: dict[str, str | int]) -> LoginReply:
        return self._decoded("POST", path, await self._ask("POST", path, body), LoginReply)

    def _decoded(self, method: str, path: str, answer: tuple[int, str, bytes], type: type[T]) -> T:
        status, kind, content = answer
        try:
            return msgspec.json.decode(content, type=type)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            what = f"{len(content)} bytes of {kind}: {_words(error)}"
            self._no_answer(method, path, status, what, error)

    def _no_answer(self, method: str, path: str, status: int, what: str, error: Exception | None = None) -> NoReturn:
        """Raise LoginFailed for a successful answer that no login service gives."""
        url = self.url + path
        text = f"{method} {url}: {status}, but no answer of a login service ({what}); is this its address?"
        raise LoginFailed(text, status=status, url=url) from error

    async def _ask(self, method: str, path: str, body: dict[str, str | int] | None = None) -> tuple[int, str, bytes]:
        """The status, content type and body of a successful answer."""
        url = self.url + path
        try:
            async with asyncio.timeout(self._timeout), self._http.stream(method, path, json=body) as response:
                content = await _read(response)
        except _TooMuch as error:
            text = f"{method} {url}: {response.status_code}, and {error}; is this a login service's address?"
            raise LoginFailed(text, status=response.status_code, url=url) from None
        except Exception as error:  # errors of several libraries, without a common class
            hint = "; is the login service running there?" if isinstance(error, httpx.ConnectError) else ""
            raise LoginFailed(f"{method} {url}: no answer: {_words(error)}{hint}", url=url) from error
        status = response.status_code
        if response.is_success:
            return status, _printable(response.headers.get("content-type", "no type")), content
        code = ""
        try:
            problem = _problem(content)
            said, code = problem.detail, problem.code
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            said = response.reason_phrase
            if response.is_redirect:
                said += "; redirects are not followed, give the address it points to"
            elif response.headers.get("content-type", "").startswith("text/html"):
                said += "; an HTML page, perhaps of a proxy, and no answer of a login service"
        after = response.headers.get("retry-after", "")
        raise LoginFailed(
            f"{method} {url}: {status} {_printable(said)}",
            status=status,
            code=code,
            retry_after=int(after) if after.isascii() and after.isdigit() and len(after) < 10 else None,
            url=url,
        )


_URL_FIX = "write it as http://127.0.0.1:8080 or https://login.example.com"


class _TooMuch(Exception):
    """A reply that is too large, or compressed."""


async def _read(response: httpx.Response) -> bytes:
    """The body, of MAX_REPLY bytes at most. Raises _TooMuch."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _TooMuch("a compressed reply, which was not requested")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > MAX_REPLY:
            raise _TooMuch(f"a reply of more than {MAX_REPLY} bytes")
    return bytes(content)


def _words(error: BaseException) -> str:
    """The error in a few words; of an exception group, the first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"{type(error).__name__}: not in time"
    if isinstance(error, httpx.RemoteProtocolError):  # its text quotes the reply
        return "RemoteProtocolError: the answer is not HTTP, or incomplete"
    words = _printable(str(error))
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _printable(text: str) -> str:
    """The text of a reply, safe for a log."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_WORDS])
