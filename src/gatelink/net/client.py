"""The connecting side: `connect` gives players, robots and servers the same `Session` as a server has.

session = await connect("tcp://127.0.0.1:7000", uid=7, token=token, handlers=handlers)
session.send(Say("hello"))
"""

import asyncio
import ssl

from gatelink.config import LINK_LIMITS, Limits, WireOptions
from gatelink.errors import ConfigError, MessageTooLarge
from gatelink.handlers import Handlers
from gatelink.net.dialer import Backoff, Dialer, Offer, TokenSource
from gatelink.net.endpoints import parse_endpoint
from gatelink.session.interfaces import Dispatcher
from gatelink.session.loop_context import LoopContext
from gatelink.session.session import Session
from gatelink.wire.base import ClientVerifyRequest
from gatelink.wire.control import Features, Hello
from gatelink.wire.keys import ClusterKey, check_public_key
from gatelink.wire.messages import Catalog
from gatelink.wire.messages import catalog as default_catalog

CLIENT_LIMITS = Limits(max_frame=4 * 1_048_576, byte_burst=4 * 1_048_576)
"""A server is trusted with larger messages than a player."""

CLIENT_FEATURES = Features.PING | Features.REQUESTS | Features.RENEWAL | Features.LOSSES


async def connect(
    endpoint: str,
    *,
    uid: int,
    token: str | TokenSource = "",
    handlers: Dispatcher[Session] | None = None,
    source: int = 0,
    timeout: float = 10.0,  # noqa: ASYNC109 - one number for dialling and verification is what callers want
    reconnect: Backoff | None = None,
    tls: ssl.SSLContext | None = None,
    catalog: Catalog = default_catalog,
    limits: Limits | None = None,
    wire: WireOptions | None = None,
    server_key: bytes | None = None,
    slot: int = 0,
    resume: bool = False,
    base_protocol: bool = False,
    cluster_key: ClusterKey | None = None,
    peer_id: int = 0,
) -> Session:
    """A verified session with the server at `endpoint` (tcp://, tls://, ws://, wss:// or unix://).

    token: what the login gave; or a function, plain or async, without arguments, that returns a fresh one. It is called
    for each login: now, and with `reconnect` whenever the session logs in again. A resume needs no token. Its time
    counts as the dial's, and what it raises as a failed attempt.
    handlers: called with its messages and its events `on_verified` and `on_closed`, and with `reconnect` also
    `on_suspended` and `on_resumed`.
    timeout: seconds for dialling and verification together. limits: CLIENT_LIMITS by default.
    reconnect: when the connection breaks, dial again with these delays. Messages that are sent meanwhile wait, in
    order. Messages that were on their way when the connection broke may be lost. After a newer login, a kick, or a
    refusal that would repeat itself, the session ends (docs/limits.md, "How a client learns of its end").
    tls: for a tls:// or wss:// endpoint, in place of the system's trust store.

    base_protocol: speak the base protocol alone, for a server that knows no more. Such a client does not learn why its
    session ended, so with `reconnect` it also comes back after a kick; it has no requests and renews no login. By
    default the client speaks the extension, and these go with it:

    server_key: the server's public key (32 bytes). The connection is sealed, and no other server can answer.
    slot: which of the user's devices this is, 0 to 255.
    resume: no sent message is lost or doubled when the connection breaks. This holds while both processes live, and for
    breaks shorter than the server's window. It implies `reconnect`, and needs a sealed or TLS connection. If the server
    refuses to resume, the session closes with RESUME_REFUSED.

    A server may ask its clients to leave (GOAWAY). Then this one leaves within the time that the server gives. It dials
    the address that the server gives, if that is as safe as `endpoint`.

    A server connects to another one's inner listener with these, in place of `token`:

    uid, source: its own id and type. peer_id: the other server's id, which is also the session's `uid`.
    cluster_key: which both have, and which proves all of this. limits: LINK_LIMITS by default.

    Raises ConnectError: unreachable, refused (`code` VERIFY_FAILED; RESUME_REFUSED if the server does not resume here),
    not in time, or without a token from `token`; ConfigError for an endpoint, key, id, token or slot that cannot be,
    and for what the base protocol does not have.
    """
    check_public_key(server_key)
    if not 0 <= slot <= 255:
        raise ConfigError(f"slot is {slot}; a user's devices are numbered 0 to 255")
    key = cluster_key or server_key
    if base_protocol and (key is not None or slot or resume):
        raise ConfigError(
            "base_protocol goes with neither server_key, cluster_key, slot nor resume: it has none of them"
        )
    if cluster_key is not None:
        _check_servers(uid, source, peer_id, bool(token) or server_key is not None or slot != 0)
    between_servers = cluster_key is not None
    limits = limits or (LINK_LIMITS if between_servers else CLIENT_LIMITS)
    context = _context(catalog, limits, wire or WireOptions(), between_servers)
    request = ClientVerifyRequest(source=source, uid=uid, token="" if callable(token) else token)
    try:
        catalog.encode(request)
    except (ValueError, MessageTooLarge) as error:
        raise ConfigError(f"invalid login request: {error}") from None
    features = CLIENT_FEATURES | Features.RESUME if resume else CLIENT_FEATURES
    offer = None if base_protocol else Offer(Hello(features=features, slot=slot), key, peer_id)
    if resume and reconnect is None:
        reconnect = Backoff()
    if handlers is None:
        handlers = Handlers(catalog)
    tokens = token if callable(token) else None
    return await _dial(
        Dialer(context, parse_endpoint(endpoint), request, handlers, timeout, reconnect, tls, offer, tokens)
    )


async def connect_server(
    endpoint: str,
    context: LoopContext,
    *,
    id: int,
    type: int,
    peer_id: int,
    cluster_key: ClusterKey,
    handlers: Dispatcher[Session],
    reconnect: Backoff,
    timeout: float,  # noqa: ASYNC109 - as `connect`
) -> Session:
    """The resumable session of a link, between server `id` of `type` and server `peer_id`.

    context: the one of this server's links, so that all of them share its metrics, limits and timers.

    Raises ConnectError, ConfigError as `connect`.
    """
    request = ClientVerifyRequest(source=type, uid=id, token="")
    features = CLIENT_FEATURES | Features.RESUME | Features.LINK_REPORTS
    offer = Offer(Hello(features=features, slot=0), cluster_key, peer_id)
    return await _dial(Dialer(context, parse_endpoint(endpoint), request, handlers, timeout, reconnect, None, offer))


async def _dial(dialer: Dialer) -> Session:
    try:
        return await dialer.dial()
    except BaseException:
        dialer.abandon()
        raise


def _check_servers(uid: int, source: int, peer_id: int, is_client_too: bool) -> None:
    """Raises ConfigError for arguments that no server of a cluster has."""
    if is_client_too:
        raise ConfigError("cluster_key goes with neither token, server_key nor slot: those are a client's")
    if not 0 < source <= 255:
        raise ConfigError(f"source is {source}; a server that connects with cluster_key gives its type, 1 to 255")
    if uid < 1 or peer_id < 1 or uid == peer_id:
        raise ConfigError(f"server {uid} connects to server {peer_id}: give uid= and peer_id=, two ids above 0")


_contexts: dict[asyncio.AbstractEventLoop, dict[tuple[int, Limits, WireOptions, bool], LoopContext]] = {}


def _context(catalog: Catalog, limits: Limits, wire: WireOptions, between_servers: bool) -> LoopContext:
    """The context that all sessions of this loop with the same settings share."""
    loop = asyncio.get_running_loop()
    if loop not in _contexts:
        for old in [old for old in _contexts if old.is_closed()]:
            del _contexts[old]
        _contexts[loop] = {}
    contexts = _contexts[loop]
    key = (id(catalog), limits, wire, between_servers)
    if key not in contexts:
        contexts[key] = LoopContext(loop, catalog, limits, wire, between_servers=between_servers)
    return contexts[key]
