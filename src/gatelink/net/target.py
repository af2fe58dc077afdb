"""Where a client dials: the endpoint that it was given, or another one that the server sent (docs/protocol.md)."""

import ssl

from gatelink.errors import ConfigError
from gatelink.logger import Logger, RateLimitedLogger
from gatelink.net.endpoints import TLS_SCHEMES, Endpoint, parse_endpoint
from gatelink.session.session import Session
from gatelink.wire.control import Ticket, printable

quiet = RateLimitedLogger(Logger("gatelink.dialer"))


def is_as_safe(there: Endpoint, here: Endpoint) -> bool:
    """Whether a server at `here` may send its clients to `there`.

    It must not weaken the transport, or make a network client open a Unix socket on its own machine.
    """
    return there.scheme == here.scheme or (here.scheme, there.scheme) in (("tcp", "tls"), ("ws", "wss"))


class Target:
    """The endpoint of a session's next dial.

    endpoint: that endpoint. Raises ConfigError for a TLS context without a tls:// or wss:// endpoint.
    """

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        if endpoint.scheme not in TLS_SCHEMES and tls is not None:
            raise ConfigError(f"a TLS context for {endpoint}; write the endpoint as tls:// or wss://")
        self.endpoint = endpoint
        self._home = endpoint
        self._tls = tls
        self._followed: Ticket | None = None  # the last ticket whose address was looked at

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The TLS context for `endpoint`; None if it has another scheme."""
        if self.endpoint.scheme not in TLS_SCHEMES:
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def follow(self, session: Session) -> tuple[float, float] | None:
        """Set `endpoint` to the address that the server sent to the detached `session`, if it sent one.

        Returns None unless the server sent a GOAWAY; then the seconds to wait before the next dial, and those over
        which the server spreads its clients.

        A client that knows the server's key keeps it, so no other server can pass for this one there.
        """
        if session.extension is None:
            return None
        ticket, away = session.extension.ticket, session.extension.going_away
        if ticket is not None and ticket is not self._followed:
            self._followed = ticket
            self._take_address(ticket.address)
        if away is None:
            return None
        self._take_address(away[0].address)
        return max(0.0, away[1] - session.context.wheel.read_clock()), away[0].reconnect_within / 1_000

    def go_home(self) -> None:
        """Return to the first endpoint, as the one that the server sent does not work."""
        self.endpoint = self._home

    def _take_address(self, address: str) -> None:
        if not address:
            return
        try:
            there = parse_endpoint(address)
        except ConfigError as error:
            quiet.info("address not followed", reason=printable(str(error)))
            return
        if is_as_safe(there, self.endpoint):
            self.endpoint = there
        else:
            quiet.info("address not followed", reason=f"{there} is not as safe as {self.endpoint}")
