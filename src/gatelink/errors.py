"""What can go wrong, by whose fault it is, and the codes a connection closes with.

    GatelinkError
    ├── LocalError               the caller's: fix the code or the configuration
    │   ├── ConfigError          a setting that cannot work
    │   ├── CatalogError         a message or handler registered twice, wrongly, or not at all
    │   ├── MessageTooLarge      a message to send that is larger than one may be
    │   ├── InvalidMessage       a message to send that its receiver's decoder would refuse
    │   ├── SessionClosed        `send` on a session that has ended
    │   ├── OutboxFull           more is queued for a peer than may be; to a player it is SessionClosed
    │   └── NotLinked            there is no link to the server that a post is for
    ├── PeerError                the peer's: its connection closes with `.code`
    │   ├── ProtocolError        bytes that the protocol does not allow
    │   │   ├── FrameTooLarge    a frame, or what it decompresses to, over the limit
    │   │   └── BodyError        a body that its message's codec rejects
    │   └── VerifyError          who it says it is could not be verified
    ├── EngineError              what a group shares (docs/engine.md): something that the engine did not do
    │   ├── EngineUnavailable    it did not answer in time; whether it did what it was asked is not known
    │   ├── Conflict             another write came first
    │   ├── NoResponder          nobody answers a call there
    │   └── RequestFailed        whoever answers it raised; `code` and `reason` if that was CallRefused
    │       └── CallTimeout      it did not answer in time, while the engine is there
    ├── CallRefused              for handlers of calls to raise: the caller is told why
    └── ConnectError             `connect()` did not get a session

A `PeerError` is never shown to the peer: it learns the close code, the log has the words.
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
    UNEXPLAINED = 4016
    """Only at the connecting side, and never sent: the server's stream ended, and nothing had said why."""

    @property
    def label(self) -> str:
        """The code's name in logs and metrics, as the protocol document spells it."""
        return _LABELS[self]

    @property
    def explanation(self) -> str:
        """One sentence for people: what happened."""
        return _EXPLANATIONS[self]


_LABELS = {code: code.name.lower().replace("_", "-") for code in CloseCode if code is not CloseCode.REPLACED} | {
    CloseCode.REPLACED: "replaced-by-newer-login"
}

_EXPLANATIONS = {
    CloseCode.NORMAL: "closed by one side, in order",
    CloseCode.VERIFY_FAILED: "the token or the claimed identity was refused",
    CloseCode.VERIFY_TIMEOUT: "nobody was verified before the deadline",
    CloseCode.REPLACED: "the same user logged in again, and the newer login wins",
    CloseCode.HEARTBEAT_TIMEOUT: "nothing was heard within the heartbeat timeout",
    CloseCode.RATE_LIMITED: "the peer sent more than its rate for too long",
    CloseCode.SLOW_CONSUMER: "the peer did not read what was queued for it",
    CloseCode.PROTOCOL_ERROR: "the peer sent what the protocol does not allow",
    CloseCode.FRAME_TOO_LARGE: "a frame, or what it decompresses to, was over the limit",
    CloseCode.KICKED: "the application ended the session",
    CloseCode.SERVER_FULL: "the server has no room for another connection",
    CloseCode.GOING_AWAY: "the server or the connection is going away; connect again",
    CloseCode.RESUME_REFUSED: "the session could not be resumed",
    CloseCode.INTERNAL_ERROR: "the server failed; the cause is in its log",
    CloseCode.CLIENT_TOO_OLD: "this client's version is no longer served",
    CloseCode.UNEXPLAINED: "the server ended the connection without a reason; its log may have one",
}


class GatelinkError(Exception):
    """The root of everything that gatelink raises on purpose."""


class LocalError(GatelinkError):
    """The caller did something that cannot work."""


class ConfigError(LocalError):
    """A setting that cannot work; the text names it and the fix."""


class CatalogError(LocalError):
    """A message, by id, name or class, or a handler of one, that is registered twice, not at all, or cannot be."""


class MessageTooLarge(LocalError):
    """A message to send is larger than one message may be (docs/limits.md, "One message")."""


class InvalidMessage(LocalError, ValueError):
    """A message to send that its receiver's decoder would refuse. The text names class and field, never the value."""


class SessionClosed(LocalError):
    """The session has ended and takes no more messages.

    `code` is why it ended, `reason` the words given with it (may be empty).
    """

    def __init__(self, code: CloseCode, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"session closed: {code:d} {code.label}" + (f" ({reason})" if reason else ""))


class PeerError(GatelinkError):
    """The peer did something that ends its connection with `code`."""

    code = CloseCode.INTERNAL_ERROR


class ProtocolError(PeerError):
    """Bytes that the protocol does not allow. `head`: the four that were taken for a frame's header, if so."""

    code = CloseCode.PROTOCOL_ERROR

    def __init__(self, text: str, head: bytes = b"") -> None:
        self.head = head
        super().__init__(text)


class FrameTooLarge(ProtocolError):
    """A declared length or decompressed size over the limit; raised before anything is allocated."""

    code = CloseCode.FRAME_TOO_LARGE


class BodyError(ProtocolError):
    """A body that its message's codec, the decompressor or the base layout rejects."""


class VerifyError(PeerError):
    """Who the peer says it is could not be verified. The text is for the log, never for the peer."""

    code = CloseCode.VERIFY_FAILED


class ConnectError(GatelinkError):
    """`connect()` did not get a verified session: unreachable, refused, timed out, or not gatelink.

    `code` is the close code, where the peer or a deadline gave one, else None.
    """

    def __init__(self, text: str, code: CloseCode | None = None) -> None:
        self.code = code
        super().__init__(text)


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Where libraries of an extra of the package are imported: ConfigError, with the fix, if one is missing.

    what: the setting or command that wants it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{what}: {_library(error)} is missing; pip install 'gatelink[{extra}]'") from None


@contextmanager
def importing(module: str, extra: str) -> Iterator[None]:
    """Where a module of gatelink imports what an extra brings: if it is missing, the ImportError names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = _library(error)
        if library == "gatelink":  # a fault of ours
            raise
        text = f'{module} needs {library}: pip install "gatelink[{extra}]"'
        raise ModuleNotFoundError(text, name=error.name) from None


def _library(error: ModuleNotFoundError) -> str:
    return (error.name or "a library").partition(".")[0]
