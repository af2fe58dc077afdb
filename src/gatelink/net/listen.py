"""Where and how a server listens, as its author writes it."""

from collections.abc import Callable
from typing import Literal

import msgspec

from gatelink.net.certificates import Certificate
from gatelink.net.connection import Connection
from gatelink.session.interfaces import Dispatcher
from gatelink.session.session import Session

Accept = Callable[[Connection], bool | None]
"""An accept hook: False refuses the connection; `connection.hand_over(protocol)` takes it over."""


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a server listens.

    certificate, key: PEM files, for a tls:// or wss:// endpoint; without `key` it is in the certificate's file. They
    are loaded again when they change. The key has no passphrase.
    proxies: networks of load balancers that send a PROXY protocol header, version 1 or 2, before each connection. At a
    ws:// endpoint the header may be left off, and other networks may connect too. X-Forwarded-For or Forwarded in the
    request is believed from these networks alone.
    tls: "terminated" at a ws:// endpoint: those proxies end TLS, so what comes through them counts as TLS.
    origins: at a ws:// or wss:// endpoint, the origins of the web pages whose scripts may connect, as
    "https://play.example.com"; "*" for all. By default no browser may. Programs that send no Origin always may.
    accept: called with every `Connection` that the limits admit. False refuses it; `connection.hand_over(protocol)`
    takes it over.
    resume_at: where clients resume, if the endpoint is a balancer's that might send them to another server.
    inner: whether it is for servers with the cluster's key. Servers connect nowhere else, and clients not here.
    handlers: the table of the sessions of an inner listener, which needs one.
    """

    endpoint: str
    certificate: str | None = None
    key: str | None = None
    proxies: tuple[str, ...] = ()
    tls: Literal["", "terminated"] = ""
    origins: tuple[str, ...] = ()
    accept: Accept | None = None
    resume_at: str = ""
    inner: bool = False
    handlers: Dispatcher[Session] | None = None

    def load_certificate(self) -> Certificate | None:
        """The certificate, if there is one. Raises ConfigError for a certificate or key that does not load."""
        return Certificate(self.endpoint, self.certificate, self.key) if self.certificate is not None else None
