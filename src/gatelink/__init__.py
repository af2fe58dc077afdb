"""The connection tier of an online game, chat or device backend.

Clients connect over TCP, TLS, WebSocket or a Unix socket, log in with a token and stay connected. Every message reaches
its handler in order. `Server` accepts connections, `connect` opens one; handlers get a `Session` on either side.
"""

from gatelink import _command as _command  # first: it guards the imports below
from gatelink.auth.tokens import Identity, MemoryTokens, StaticTokens, Tokens
from gatelink.cluster.cluster import Cluster, NotLinked
from gatelink.cluster.engine import EngineError, EngineUnavailable, NoResponder
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.player import Player
from gatelink.cluster.service import Service
from gatelink.cluster_client import ClusterClient, connect_cluster
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
    Refuse,
    RequestCode,
    RequestFailed,
    SessionClosed,
    VerifyError,
)
from gatelink.handlers import Handlers
from gatelink.handling.fallback import RawFrame
from gatelink.net.client import connect
from gatelink.net.connection import Connection
from gatelink.net.dialer import Backoff
from gatelink.server import Listen, Server
from gatelink.session.interfaces import Peer
from gatelink.session.manager import Duplicate, SessionManager
from gatelink.session.outbox import Full, OutboxFull
from gatelink.session.renewal import CloseExpired
from gatelink.session.session import Session
from gatelink.version import __version__ as __version__
from gatelink.wire.control import Lost
from gatelink.wire.envelope import Arrival
from gatelink.wire.keys import ClusterKey, ServerKey
from gatelink.wire.messages import Catalog, Request, message

__all__ = [
    "LINK_LIMITS",
    "Arrival",
    "Backoff",
    "BodyError",
    "Catalog",
    "CatalogError",
    "CloseCode",
    "CloseExpired",
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
    "ClusterClient",
    "ClusterKey",
    "Handlers",
    "Identity",
    "Limits",
    "Listen",
    "LocalError",
    "Lost",
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
    "Refuse",
    "Request",
    "RequestCode",
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
    "connect_cluster",
    "message",
]
