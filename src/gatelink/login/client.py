"""A client of the login service, for robots, tests and tools: HTTP in, what `connect` needs out."""

from typing import Self

import httpx
import msgspec

from gatelink.errors import GatelinkError
from gatelink.login.messages import LoginReply, Problem, ServerEntry

TIMEOUT = 15.0  # s that one request may take; the service's own limit is shorter

_reply = msgspec.json.Decoder(LoginReply).decode
_servers = msgspec.json.Decoder(list[ServerEntry]).decode
_problem = msgspec.json.Decoder(Problem).decode


class LoginFailed(GatelinkError):
    """The service did not do it, or cannot be reached.

    status: of HTTP, 0 if there was no answer. code: the problem's, as `wrong-credentials`; "" without. retry_after:
    seconds to wait before trying again, None if it did not say.
    """

    def __init__(self, text: str, *, status: int = 0, code: str = "", retry_after: int | None = None) -> None:
        self.status = status
        self.code = code
        self.retry_after = retry_after
        super().__init__(text)


class LoginClient:
    """Asks the login service at `url`. Every method raises LoginFailed.

    slot: which of the user's devices logs in, 0 to 255; a login ends the older tokens of that slot.

    async with LoginClient("http://127.0.0.1:8080") as client:
        reply = await client.guest(device_id)
        session = await connect(reply.addresses["tcp"], uid=reply.uid, token=reply.token)
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def register(self, user: str, password: str, *, slot: int = 0) -> LoginReply:
        """Makes an account, and logs in to it."""
        return _reply(await self._ask("POST", "/v1/register", {"user": user, "password": password, "slot": slot}))

    async def login(self, user: str, password: str, *, slot: int = 0) -> LoginReply:
        """Logs in by a password; `code` is `wrong-credentials` if they are."""
        return _reply(await self._ask("POST", "/v1/login", {"user": user, "password": password, "slot": slot}))

    async def guest(self, device_id: str, *, slot: int = 0) -> LoginReply:
        """Logs in by a device's secret, 16 to 128 characters drawn at random; makes the account the first time."""
        return _reply(await self._ask("POST", "/v1/guest", {"device_id": device_id, "slot": slot}))

    async def oidc(self, id_token: str, *, slot: int = 0) -> LoginReply:
        """Logs in by what an OpenID Connect issuer gave; makes the account the first time."""
        return _reply(await self._ask("POST", "/v1/oidc", {"id_token": id_token, "slot": slot}))

    async def logout(self, token: str) -> None:
        """Ends the token."""
        await self._ask("POST", "/v1/logout", {"token": token})

    async def servers(self) -> list[ServerEntry]:
        """The gateways that are known."""
        return _servers(await self._ask("GET", "/v1/servers"))

    async def _ask(self, method: str, path: str, body: dict[str, str | int] | None = None) -> bytes:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise LoginFailed(f"{method} {path}: no answer: {type(error).__name__}") from None
        if response.is_success:
            return response.content
        try:
            problem = _problem(response.content)
            text, code = problem.detail, problem.code
        except msgspec.DecodeError:
            text, code = response.reason_phrase, ""
        after = response.headers.get("retry-after", "")
        raise LoginFailed(
            f"{method} {path}: {response.status_code} {text}",
            status=response.status_code,
            code=code,
            retry_after=int(after) if after.isdigit() else None,
        )
