"""The connection tier of an online game, chat or device backend.

Clients connect over TCP, log in with a token and stay connected. Every message reaches its handler in order. `Server`
accepts connections, `connect` makes one; both give a `Session`.
"""

from gatelink.auth.tokens import Identity, MemoryTokens, StaticTokens, Tokens
from gatelink.cluster.cluster import Cluster, Membership, NotLinked
from gatelink.cluster.engine import CallRefused, CallTimeout, EngineError, EngineUnavailable, NoResponder, RequestFailed
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.players import Player
from gatelink.cluster.service import Service
from gatelink.config import LINK_LIMITS, Limits, WireOptions
from gatelink.errors import (
    BodyError,
    CatalogError,
    CloseCode,
    ConfigError,
    ConnectError,
    FrameTooLarge,
    GatelinkError,
    InvalidMessage,
    LocalError,
    MessageTooLarge,
    PeerError,
    ProtocolError,
    SessionClosed,
    VerifyError,
)
from gatelink.handlers import Handlers, RawFrame
from gatelink.net.client import connect
from gatelink.net.connection import Connection
from gatelink.net.dialer import Backoff
from gatelink.server import Listen, Server
from gatelink.session.interfaces import Peer
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.outbox import Full, OutboxFull
from gatelink.session.session import Session
from gatelink.version import __version__ as __version__
from gatelink.wire.envelope import Arrival
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.messages import Catalog, message

__all__ = [
    "LINK_LIMITS",
    "Arrival",
    "Backoff",
    "BodyError",
    "CallRefused",
    "CallTimeout",
    "Catalog",
    "CatalogError",
    "CloseCode",
    "ConfigError",
    "ConnectError",
    "Connection",
    "Duplicate",
    "EngineError",
    "EngineUnavailable",
    "FrameTooLarge",
    "Full",
    "GatelinkError",
    "Gateway",
    "Cluster",
    "ClusterKey",
    "Handlers",
    "Identity",
    "Limits",
    "Listen",
    "LocalError",
    "Membership",
    "MemoryTokens",
    "InvalidMessage",
    "MessageTooLarge",
    "NoResponder",
    "NotLinked",
    "OutboxFull",
    "Peer",
    "PeerError",
    "Player",
    "ProtocolError",
    "RawFrame",
    "RequestFailed",
    "Server",
    "ServerKey",
    "Service",
    "Session",
    "SessionClosed",
    "SessionManager",
    "StaticTokens",
    "Tokens",
    "VerifyError",
    "WireOptions",
    "connect",
    "message",
]
