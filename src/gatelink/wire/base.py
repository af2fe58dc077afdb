"""The framework's own messages (docs/protocol.md, "Base messages"). The wire names keep the original's spelling."""

from msgspec import Struct

from gatelink.wire.codecs import U8, U64

VERIFY_REQUEST = 1
VERIFY_SUCCEEDED = 2
VERIFY_FAILED = 3
HEARTBEAT = 4
DUPLICATE_LOGIN = 24


class ClientVerifyRequest(Struct, frozen=True):
    """The login of the connecting side: always its first message."""

    source: U8  # 0 a client, 1 to 255 a server type
    uid: U64
    token: str

    def __repr__(self) -> str:  # logs and tracebacks must not hold tokens
        return f"ClientVerifyRequest(source={self.source}, uid={self.uid}, token=<{len(self.token)} characters>)"


class ClientVerifySucceeded(Struct, frozen=True):
    """The accepting side has verified the login."""

    source: U8
    uid: U64
    source_id: U64
    type: U8  # 0: a new session, 1: the client returned within the window; a receiver takes any value


class ClientVerifyFailed(Struct, frozen=True):
    """The accepting side has refused the login, and closes."""


class HeartBeat(Struct, frozen=True):
    """Shows that the sender is alive."""


class DuplicateLogin(Struct, frozen=True):
    """A newer login of the same user replaces this session, which closes after this message."""


BASE_MESSAGES: tuple[tuple[int, str, type[Struct]], ...] = (
    (VERIFY_REQUEST, "ClientVertifyReq", ClientVerifyRequest),
    (VERIFY_SUCCEEDED, "ClientVertifySucceedRet", ClientVerifySucceeded),
    (VERIFY_FAILED, "ClientVertifyFailedRet", ClientVerifyFailed),
    (HEARTBEAT, "HeartBeat", HeartBeat),
    (DUPLICATE_LOGIN, "UserDuplicateLoginNotify", DuplicateLogin),
)
"""`(id, wire name, class)`. All use the binary codec, and none is ever compressed."""

BASE_IDS = frozenset(id for id, _, _ in BASE_MESSAGES)

ENVELOPE_IDS = range(100, 200)
"""Ids of the messages between servers: the envelopes of players' frames, and events."""

FRAMEWORK_IDS = BASE_IDS | frozenset(ENVELOPE_IDS)
"""Ids that no application message can have: the base messages, and the messages between servers."""

FIRST_APPLICATION_ID = 11_000
LAST_APPLICATION_ID = 59_999
"""In this range `id // 1000` is the server type that a gateway forwards to. Lower ids are the original engine's."""
