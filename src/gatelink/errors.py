"""Errors by whose fault they are, and the codes with which connections close.

    GatelinkError
    ├── LocalError               the caller's: fix the code or the configuration
    │   ├── ConfigError          a setting that can't work
    │   ├── CatalogError         a message or handler registered twice, wrongly, or not at all
    │   ├── MessageTooLarge      a message to send is over the size limit
    │   ├── InvalidMessage       a message to send that its receiver's decoder would refuse
    │   ├── SessionClosed        `send` on a closed session
    │   ├── OutboxFull           too much is queued for a peer; for a player's session it is SessionClosed
    │   └── NotLinked            there is no link to the server that a post is for
    ├── PeerError                the peer's: its connection closes with `.code`
    │   ├── ProtocolError        bytes that the protocol does not allow
    │   │   ├── FrameTooLarge    a frame, or its decompressed body, is over the limit
    │   │   └── BodyError        a body that its message's codec refuses
    │   └── VerifyError          the identity of the peer could not be verified
    ├── EngineError              the engine of a cluster did not do something (docs/engine.md)
    │   ├── EngineUnavailable    it did not answer in time, and may or may not have done it
    │   ├── Conflict             another write came first
    │   └── NoResponder          no process serves the subject of a request
    ├── RequestFailed            a request or call has no answer; `code` says why
    ├── Refuse                   handlers of requests and calls raise it; the other side gets its number and reason
    └── ConnectError             `connect()` did not get a session

The text of a `PeerError` is for the log. The peer gets only the close code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class CloseCode(IntEnum):
    """Why a connection or session ended (protocol.md, "Close codes"); also WebSocket codes and metric labels."""

    NORMAL = 4000
    VERIFY_FAILED = 4001
    VERIFY_TIMEOUT = 4002
    REPLACED = 4003
    HEARTBEAT_TIMEOUT = 4004
    RATE_LIMITED = 4005
    SLOW_CONSUMER = 4006
    PROTOCOL_ERROR = 4007
    FRAME_TOO_LARGE = 4008
    KICKED = 4009
    SERVER_FULL = 4010
    GOING_AWAY = 4011
    RESUME_REFUSED = 4012
    INTERNAL_ERROR = 4013
    CLIENT_TOO_OLD = 4014
    TOKEN_EXPIRED = 4015
    UNEXPLAINED = 4016
    """Only at the connecting side, and never sent: the server's stream ended without a reason."""

    @property
    def label(self) -> str:
        """The code's name in logs and metrics, as the protocol document spells it."""
        return _LABELS[self]

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        return _EXPLANATIONS[self]


_LABELS = {code: code.name.lower().replace("_", "-") for code in CloseCode if code is not CloseCode.REPLACED} | {
    CloseCode.REPLACED: "replaced-by-newer-login"
}

_EXPLANATIONS = {
    CloseCode.NORMAL: "closed by one side, in order",
    CloseCode.VERIFY_FAILED: "the token or the claimed identity was refused",
    CloseCode.VERIFY_TIMEOUT: "the login was not verified before the deadline",
    CloseCode.REPLACED: "the same user logged in again, and the newer login wins",
    CloseCode.HEARTBEAT_TIMEOUT: "nothing was received within the heartbeat timeout",
    CloseCode.RATE_LIMITED: "the peer sent more than its rate for too long",
    CloseCode.SLOW_CONSUMER: "the peer did not read its queued messages",
    CloseCode.PROTOCOL_ERROR: "the peer sent bytes that the protocol does not allow",
    CloseCode.FRAME_TOO_LARGE: "a frame, or its decompressed body, was over the limit",
    CloseCode.KICKED: "the application ended the session",
    CloseCode.SERVER_FULL: "the server has no room for another connection",
    CloseCode.GOING_AWAY: "the server or the connection is going away; connect again",
    CloseCode.RESUME_REFUSED: "the session could not be resumed",
    CloseCode.INTERNAL_ERROR: "the server failed; the cause is in its log",
    CloseCode.CLIENT_TOO_OLD: "this client's version is no longer served",
    CloseCode.TOKEN_EXPIRED: "the token of the login expired, and was not renewed",
    CloseCode.UNEXPLAINED: "the server ended the connection without a reason; its log may have one",
}


def checked_code(code: int) -> "CloseCode":
    """The close code of that number. Raises LocalError for any other: peers know no further codes."""
    try:
        return CloseCode(code)
    except ValueError:
        raise LocalError(
            f"{code!r} is no close code; give one of CloseCode, and `reason` for words of your own"
        ) from None


class GatelinkError(Exception):
    """The base of all errors that gatelink raises on purpose."""


class LocalError(GatelinkError):
    """The caller did something that can't work."""


class ConfigError(LocalError):
    """A setting that can't work. The text names it and the fix."""


class CatalogError(LocalError):
    """A message or handler is registered twice, is not registered, or can't be."""


class MessageTooLarge(LocalError):
    """A message to send is over the size limit (docs/limits.md, "One message")."""


class InvalidMessage(LocalError, ValueError):
    """A message to send that its receiver's decoder would refuse. The text has class and field, never the value."""


class SessionClosed(LocalError):
    """The session is closed and takes no more messages.

    code: why it closed. reason: the text of the close, which may be empty.
    """

    def __init__(self, code: CloseCode, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"session closed: {code:d} {code.label}" + (f" ({reason})" if reason else ""))


class PeerError(GatelinkError):
    """The peer did something that ends its connection with `code`."""

    code = CloseCode.INTERNAL_ERROR


class ProtocolError(PeerError):
    """Bytes that the protocol does not allow. head: the four bytes of the bad frame header, if there is one."""

    code = CloseCode.PROTOCOL_ERROR

    def __init__(self, text: str, head: bytes = b"") -> None:
        self.head = head
        super().__init__(text)


class FrameTooLarge(ProtocolError):
    """A declared length or decompressed size is over the limit. Raised before anything is allocated."""

    code = CloseCode.FRAME_TOO_LARGE


class BodyError(ProtocolError):
    """A body that its message's codec, the decompressor or the base layout refuses."""


class VerifyError(PeerError):
    """The identity of the peer could not be verified. The text is for the log, never for the peer."""

    code = CloseCode.VERIFY_FAILED


class RequestCode(IntEnum):
    """Why a request has no answer (docs/protocol.md, "Requests"). Those from 256 up are never sent."""

    NO_HANDLER = 1
    """The other side has no handler of such a request."""
    NO_ANSWER = 2
    """Its handler returned nothing."""
    FAILED = 3
    """Its handler failed. The cause is in the log of that side only."""
    REFUSED = 4
    """Its handler raised `Refuse`."""
    TOO_MANY = 5
    """Too many requests wait for their answers, or the answer would never be read."""
    SERVER_LOST = 6
    """The server behind the gateway is gone, or gave the player to another one."""
    RATE = 7
    """More requests of the type came than its rate allows."""
    TIMEOUT = 256
    """The answer did not come in time. The request may have been handled."""
    CLOSED = 257
    """The session ended before the answer came. The request may have been handled."""
    UNSUPPORTED = 258
    """The other side does not speak requests. Nothing was sent."""
    WRONG_ANSWER = 259
    """The answer is a message of another type than the request declares."""

    @property
    def label(self) -> str:
        """The code's name in logs and metrics, and as text."""
        return self.name.lower().replace("_", "-")

    def __str__(self) -> str:
        return self.label


class RequestFailed(GatelinkError):
    """A request has no answer.

    code: why. detail: the application's number in a `Refuse`, else 0. reason: its text, which may be empty.
    """

    def __init__(self, code: RequestCode, detail: int = 0, reason: str = "") -> None:
        self.code = code
        self.detail = detail
        self.reason = reason
        what = f"refused with {detail}" if code is RequestCode.REFUSED else code.label
        super().__init__(f"request failed: {what}" + (f" ({reason})" if reason else ""))


class Refuse(GatelinkError):
    """Raised by the handler of a request: the requester gets RequestFailed with code REFUSED, `detail` and `reason`.

    detail: 0 to 2**32 - 1, the application's own number. reason: for the other side, up to 123 bytes as UTF-8; the rest
    is cut off. Raises LocalError for another number, and for a reason that is no str.
    """

    def __init__(self, detail: int, reason: str = "") -> None:
        if not isinstance(detail, int) or not 0 <= detail < 1 << 32:
            raise LocalError(f"Refuse({detail!r}): the number of a refusal is an int of 0 to 2**32 - 1")
        if not isinstance(reason, str):
            raise LocalError(f"Refuse({detail}) with a reason of type {type(reason).__name__}; give it a str")
        self.detail = detail
        self.reason = reason
        super().__init__(f"refused with {detail}" + (f": {reason}" if reason else ""))


class ConnectError(GatelinkError):
    """`connect()` did not get a verified session: unreachable, refused, timed out, or not gatelink.

    code: the close code, if the peer or a deadline gave one, else None.
    """

    def __init__(self, text: str, code: CloseCode | None = None) -> None:
        self.code = code
        super().__init__(text)


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Import libraries of an extra inside the block. Raises ConfigError, with the fix, if one is missing.

    what: the setting or command that needs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what}: {_library(error)} is missing; pip install 'gatelink[{extra}]'") from None


@contextmanager
def importing(module: str, extra: str) -> Iterator[None]:
    """Import libraries of an extra at the top of `module`. If one is missing, the ImportError names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = _library(error)
        if library == "gatelink":  # gatelink's own fault
            raise
        text = f'{module} needs {library}: pip install "gatelink[{extra}]"'
        raise ModuleNotFoundError(text, name=error.name) from None


def _library(error: ModuleNotFoundError) -> str:
    return (error.name or "a library").partition(".")[0]


def plural(what: str, number: float) -> str:
    """`what` as it stands behind a number: "frame" behind 1, else "frames". Of several words the first one changes."""
    first, *rest = what.split()
    return what if number == 1 else " ".join([f"{first}s", *rest])


def counted(number: int, what: str) -> str:
    """A number and its noun: "1 frame", "2 frames"."""
    return f"{number} {plural(what, number)}"
