"""The JSON bodies of the login service; docs/login.md has an example of each."""

from http import HTTPStatus
from typing import Annotated, Any

import msgspec

MAX_TEXT = 1_024  # characters of a user name or password in a request; accounts allow less

User = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT, description="The user name.", examples=["anna"])]
Slot = Annotated[
    int, msgspec.Meta(ge=0, le=255, description="Which of the user's devices this is; a login ends its older tokens.")
]
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT, examples=["correct horse battery staple"])]


TOKEN = "0d6c8f3e21b94a5786f0c3d2e1a4b597"
"""A token in examples."""

_SECRETS = frozenset({"password", "token", "Token", "device_id", "id_token"})


class _WithSecrets(msgspec.Struct, frozen=True):
    """A body that holds a secret. Logs and tracebacks must not hold it, so its repr does not."""

    def __repr__(self) -> str:
        shown = [
            f"{name}=<{len(value)} characters>" if name in _SECRETS and isinstance(value, str) else f"{name}={value!r}"
            for name, value in msgspec.structs.asdict(self).items()
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class Credentials(_WithSecrets, frozen=True):
    """A user name and a password."""

    user: User
    password: Password
    slot: Slot = 0


class GuestCredentials(_WithSecrets, frozen=True):
    """A device's secret."""

    device_id: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=128,
            description="Drawn at random by the app and kept: at least 16 printable ASCII characters, 8 different.",
            examples=["6f1d0c3a9be84275a0e3c1d2f4b59687"],
        ),
    ]
    slot: Slot = 0


class OidcCredentials(_WithSecrets, frozen=True, omit_defaults=True):
    """An ID token of the OpenID Connect issuer that is configured."""

    id_token: Annotated[
        str, msgspec.Meta(min_length=1, max_length=8_192, examples=["eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmVk"])
    ]
    nonce: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | msgspec.UnsetType = msgspec.UNSET
    slot: Slot = 0


class LogoutRequest(_WithSecrets, frozen=True):
    """A token to end."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, examples=[TOKEN])]


class LoginReply(_WithSecrets, frozen=True):
    """A successful login: the uid, the token, and the addresses to connect to."""

    uid: Annotated[
        int, msgspec.Meta(ge=0, description="The user's id: 64 bits, more than a double holds.", examples=[1_000_000])
    ]
    token: Annotated[str, msgspec.Meta(description="For ClientVertifyReq, once and soon; a secret.", examples=[TOKEN])]
    expires_at: Annotated[
        float, msgspec.Meta(description="Unix seconds at which the token ends.", examples=[1_795_000_000.5])
    ]
    addresses: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="The gateway's address for each transport it has.",
            examples=[{"tcp": "tcp://play.example.com:7000"}],
        ),
    ]
    public_key: Annotated[
        str,
        msgspec.Meta(
            description="The gateway's public key for sealed connections, 64 hex digits; empty: none.",
            examples=["5d1c" * 16],
        ),
    ]


class ServerEntry(msgspec.Struct, frozen=True):
    """A gateway, as clients see it."""

    id: Annotated[int, msgspec.Meta(examples=[1])]
    name: Annotated[str, msgspec.Meta(examples=["gateway"])]
    addresses: Annotated[dict[str, str], msgspec.Meta(examples=[{"tcp": "tcp://play.example.com:7000"}])]
    public_key: Annotated[str, msgspec.Meta(examples=["5d1c" * 16])]
    open: Annotated[bool, msgspec.Meta(description="It takes players.")]


class Problem(msgspec.Struct, frozen=True):
    """Why a request failed (RFC 9457). `code` is for programs and never changes; the rest is for people."""

    title: str
    status: Annotated[int, msgspec.Meta(ge=400, lt=600)]
    detail: str
    code: Annotated[str, msgspec.Meta(examples=["wrong-credentials"])]
    type: str = "about:blank"


MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1  # s, for what is likely over soon

_TITLES = {422: "Unprocessable Content", 413: "Content Too Large"}  # RFC 9110's; older Pythons have others


def problem(status: int, code: str, detail: str) -> Problem:
    title = _TITLES.get(status) or HTTPStatus(status).phrase
    return Problem(title=title, status=status, detail=detail, code=code)


def response_of(problem: Problem, headers: dict[str, str]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """(status, headers, body), as ASGI and h11 write them."""
    body = msgspec.json.encode(problem)
    fields = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "cache-control": "no-store"}
    fields |= {"x-content-type-options": "nosniff", **headers}
    return problem.status, [(name.encode(), value.encode("latin-1")) for name, value in fields.items()], body


LegacyUser = Annotated[str, msgspec.Meta(max_length=MAX_TEXT, examples=["anna"])]
LegacyPassword = Annotated[str, msgspec.Meta(max_length=MAX_TEXT, examples=["correct horse battery staple"])]
MAX_PROOF = 8_192  # characters of what a third party gave


class LegacyRequest(_WithSecrets, frozen=True, rename="pascal"):
    """The original engine's login. A missing or null field is an empty text."""

    user: LegacyUser
    password: LegacyPassword
    channel: (
        Annotated[str, msgspec.Meta(max_length=MAX_PROOF, description="A third party that knows the user.")] | None
    ) = ""
    client_ver: Annotated[str, msgspec.Meta(max_length=MAX_PROOF, description="The version of the client.")] | None = ""
    token: Annotated[str, msgspec.Meta(max_length=MAX_PROOF, description="What the third party gave.")] | None = ""
    data: (
        Annotated[str, msgspec.Meta(max_length=MAX_PROOF, description="Further proof, in base64 from clients in Go.")]
        | None
    ) = ""


class LegacyCreation(_WithSecrets, frozen=True, rename="pascal"):
    """The original engine's registration."""

    user: LegacyUser
    password: LegacyPassword


class LegacyCreated(msgspec.Struct, frozen=True):
    """The original engine's answer to a registration; `Result` as in `LegacyReply`."""

    UID: Annotated[int, msgspec.Meta(examples=[1_000_000])] = 0
    Result: int = 0
    ResultMsg: str = ""


class LegacyError(msgspec.Struct, frozen=True):
    """The original engine's refusal, if the status shows it."""

    Error: str


class LegacyReply(_WithSecrets, frozen=True):
    """The original engine's answer to a login. `Result` 0 is success; with another one only `ResultMsg` counts."""

    UID: Annotated[int, msgspec.Meta(examples=[1_000_000])] = 0
    Token: Annotated[str, msgspec.Meta(examples=[TOKEN])] = ""
    LobbyAddr: Annotated[str, msgspec.Meta(examples=["play.example.com:7000"])] = ""
    Result: Annotated[
        int,
        msgspec.Meta(
            description="0 success, 1 wrong user name or password, 2 too many tries, 3 try later, 4 client too old."
        ),
    ] = 0
    ResultMsg: str = ""
    HB: Annotated[bool, msgspec.Meta(description="The client has to send heartbeats.")] = True


def credentials_of(message: msgspec.Struct) -> dict[str, Any]:
    """The credentials in a message, for a login method."""
    found = msgspec.structs.asdict(message)
    return {name: "" if value is None else value for name, value in found.items() if value is not msgspec.UNSET}
