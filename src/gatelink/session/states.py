"""The states of a connection and of a session, and every transition there is.

A `Connection` is one socket's life; a `Session` is one peer's, and may outlive a connection (DETACHED).
For a transition that is not in a table, `step` raises: that is a bug of gatelink.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar


class ConnectionState(Enum):
    UNVERIFIED = auto()
    """Open; its first message is awaited or being checked."""
    BOUND = auto()
    """It carries a session."""
    CLOSING = auto()
    """Written bytes are on their way out; bytes that come in are dropped."""
    CLOSED = auto()


class ConnectionEvent(Enum):
    VERIFIED = auto()
    CLOSE = auto()
    LOST = auto()


class SessionState(Enum):
    OPEN = auto()
    """It has a connection, and messages go both ways."""
    DETACHED = auto()
    """It lost its connection and may be given another; what is sent meanwhile waits in its outbox."""
    CLOSING = auto()
    """It has ended for the application; what was queued is being delivered."""
    CLOSED = auto()


class SessionEvent(Enum):
    BREAK = auto()
    """The connection of a session that can come back is gone."""
    ATTACH = auto()
    """The session gets a new connection. It is detached, or the break of its connection was not noticed yet."""
    CLOSE = auto()
    """One side ends it, and what is queued may still be delivered."""
    END = auto()
    """Nothing more can be delivered."""


C, CE, S, SE = ConnectionState, ConnectionEvent, SessionState, SessionEvent

CONNECTION = {
    (C.UNVERIFIED, CE.VERIFIED): C.BOUND,
    (C.UNVERIFIED, CE.CLOSE): C.CLOSING,
    (C.UNVERIFIED, CE.LOST): C.CLOSED,
    (C.BOUND, CE.CLOSE): C.CLOSING,
    (C.BOUND, CE.LOST): C.CLOSED,
    (C.CLOSING, CE.CLOSE): C.CLOSING,
    (C.CLOSING, CE.LOST): C.CLOSED,
}

SESSION = {
    (S.OPEN, SE.BREAK): S.DETACHED,
    (S.OPEN, SE.ATTACH): S.OPEN,
    (S.OPEN, SE.CLOSE): S.CLOSING,
    (S.OPEN, SE.END): S.CLOSED,
    (S.DETACHED, SE.ATTACH): S.OPEN,
    (S.DETACHED, SE.CLOSE): S.CLOSED,  # there is no connection to deliver on
    (S.DETACHED, SE.END): S.CLOSED,
    (S.CLOSING, SE.END): S.CLOSED,
}

_State = TypeVar("_State", bound=Enum)
_Event = TypeVar("_Event", bound=Enum)


def step(table: Mapping[tuple[_State, _Event], _State], state: _State, event: _Event) -> _State:
    """The state after `event`. Raises RuntimeError where the table has no such transition."""
    try:
        return table[state, event]
    except KeyError:
        raise RuntimeError(f"{event} cannot happen in {state}") from None
