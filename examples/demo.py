"""What the demos share."""

import socket


class DemoError(Exception):
    """The demo could not be run to its end; the text says why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now, nor on the one above."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
            if port < 65_535:
                try:
                    socket.create_server(("127.0.0.1", port + 1)).close()
                    return port
                except OSError:
                    continue
