"""The states of a login check and of a dialer, and every transition there is; `session.states.step` takes them.

A frame of the peer that is not in the table of a login check is a protocol error. Any other event that is not in its
table is a bug of gatelink: `step` raises.
"""

from enum import Enum, auto


class LoginState(Enum):
    """The state of a login check: what is due next, from the peer or from us."""

    FIRST_FRAME = auto()
    """HELLO, HANDSHAKE or ClientVertifyReq is due."""
    QUEUED = auto()
    """A HANDSHAKE waits for its turn."""
    AGREED = auto()
    """HELLO or HANDSHAKE was answered; ClientVertifyReq or RESUME is due."""
    CHECKING = auto()
    """The token of a ClientVertifyReq is being checked."""
    VERIFIED = auto()
    """A session has the connection."""
    REFUSED = auto()
    """The connection is closed, or its peer closed it."""


class LoginEvent(Enum):
    HELLO = auto()
    HANDSHAKE = auto()
    TURN = auto()
    """The turn of a queued HANDSHAKE has come."""
    REQUEST = auto()
    """ClientVertifyReq."""
    RESUME = auto()
    """A RESUME was accepted."""
    TOKEN = auto()
    """The token is good."""
    REFUSE = auto()
    """We refuse the peer, or the connection is lost."""


class DialState(Enum):
    """The state of a dialer: what is due next from the server."""

    IDLE = auto()
    """Nothing: there is no connection, or a session lost it, or an attempt failed."""
    CONNECTING = auto()
    """The connection itself."""
    HANDSHAKE = auto()
    HELLO = auto()
    VERDICT = auto()
    """The answer to ClientVertifyReq."""
    TICKET = auto()
    """The ticket, right behind the verdict: the session can be resumed from its first moment."""
    RESUMED = auto()
    BOUND = auto()
    """Nothing: the session has the connection."""


class DialEvent(Enum):
    DIAL = auto()
    SEND_HANDSHAKE = auto()
    SEND_HELLO = auto()
    SEND_REQUEST = auto()
    SEND_RESUME = auto()
    VERIFIED = auto()
    """The verdict is good, and a ticket follows."""
    BIND = auto()
    """The session gets the connection."""
    FAIL = auto()
    """The attempt failed."""
    DETACH = auto()
    """The session lost the connection."""


L, LE, D, DE = LoginState, LoginEvent, DialState, DialEvent

LOGIN = {
    (L.FIRST_FRAME, LE.HELLO): L.AGREED,
    (L.FIRST_FRAME, LE.HANDSHAKE): L.QUEUED,
    (L.FIRST_FRAME, LE.REQUEST): L.CHECKING,
    (L.FIRST_FRAME, LE.REFUSE): L.REFUSED,
    (L.QUEUED, LE.TURN): L.AGREED,
    (L.QUEUED, LE.REFUSE): L.REFUSED,
    (L.AGREED, LE.REQUEST): L.CHECKING,
    (L.AGREED, LE.RESUME): L.VERIFIED,
    (L.AGREED, LE.REFUSE): L.REFUSED,
    (L.CHECKING, LE.TOKEN): L.VERIFIED,
    (L.CHECKING, LE.REFUSE): L.REFUSED,
}

DIAL = {
    (D.IDLE, DE.DIAL): D.CONNECTING,
    (D.CONNECTING, DE.SEND_HANDSHAKE): D.HANDSHAKE,
    (D.CONNECTING, DE.SEND_HELLO): D.HELLO,
    (D.CONNECTING, DE.SEND_REQUEST): D.VERDICT,  # of the base protocol
    (D.CONNECTING, DE.FAIL): D.IDLE,
    (D.HANDSHAKE, DE.SEND_REQUEST): D.VERDICT,
    (D.HANDSHAKE, DE.SEND_RESUME): D.RESUMED,
    (D.HANDSHAKE, DE.FAIL): D.IDLE,
    (D.HELLO, DE.SEND_REQUEST): D.VERDICT,
    (D.HELLO, DE.SEND_RESUME): D.RESUMED,
    (D.HELLO, DE.FAIL): D.IDLE,
    (D.VERDICT, DE.VERIFIED): D.TICKET,
    (D.VERDICT, DE.BIND): D.BOUND,
    (D.VERDICT, DE.FAIL): D.IDLE,
    (D.TICKET, DE.BIND): D.BOUND,
    (D.TICKET, DE.FAIL): D.IDLE,
    (D.RESUMED, DE.BIND): D.BOUND,
    (D.RESUMED, DE.FAIL): D.IDLE,
    (D.BOUND, DE.DETACH): D.IDLE,
}
