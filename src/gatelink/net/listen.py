"""Where and how a server listens, as its author writes it."""

import msgspec

from gatelink.net.certificates import Certificate
from gatelink.net.listener import Accept
from gatelink.session.interfaces import Dispatcher
from gatelink.session.session import Session


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a server listens.

    certificate, key: PEM files, for a tls:// endpoint; without `key` it is in the certificate's file. They are loaded
    again when they change. The key has no passphrase.
    proxies: networks of load balancers that send a PROXY protocol v2 header before each connection.
    accept: called with every `Connection` that the limits admit. False refuses it; `connection.hand_over(protocol)`
    takes it over.
    resume_at: where clients resume, if the endpoint is a balancer's that might send them to another server.
    inner: whether it is for servers with the group key. They can connect at no other listener, and clients not here.
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
