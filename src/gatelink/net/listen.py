"""Where and how a server listens, as its author writes it."""

from collections.abc import Callable

import msgspec

from gatelink.net.certificates import Certificate
from gatelink.net.connection import Connection
from gatelink.session.interfaces import Dispatcher
from gatelink.session.session import Session

Accept = Callable[[Connection], bool | None]
"""An accept hook: False refuses the connection; `connection.hand_over(protocol)` takes it over."""


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a server listens.

    certificate, key: PEM files, for a tls:// endpoint; without `key` it is in the certificate's file. They are loaded
    again when they change. The key has no passphrase.
    proxies: networks of load balancers that send a PROXY protocol header, version 1 or 2, before each connection.
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
    accept: Accept | None = None
    resume_at: str = ""
    inner: bool = False
    handlers: Dispatcher[Session] | None = None

    def tls(self) -> Certificate | None:
        """The certificate of a tls:// endpoint. Raises ConfigError for a certificate or key that does not load."""
        return Certificate(self.endpoint, self.certificate, self.key) if self.certificate is not None else None
