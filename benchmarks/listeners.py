"""The server under test with another listener: TLS, or the inner one, for servers of its cluster.

python -m benchmarks.listeners tls PORT DIRECTORY    # with certificate.pem and key.pem in it
python -m benchmarks.listeners link PORT
"""

import sys
from pathlib import Path

from msgspec.structs import replace

from benchmarks.echo import ANY_HANDSHAKES, server
from benchmarks.harness import HOST
from gatelink import ClusterKey, Handlers, Listen, Server
from gatelink.config import LINK_LIMITS

CLUSTER_KEY = ClusterKey.from_hex("02" * 32)  # for benchmarks: known to everybody
SERVER_ID = 1

CERTIFICATE, CERTIFICATE_KEY = "certificate.pem", "key.pem"


def tls(port: str, directory: Path) -> Server:
    server.listen = (
        Listen(
            endpoint=f"tls://{HOST}:{port}",
            certificate=str(directory / CERTIFICATE),
            key=str(directory / CERTIFICATE_KEY),
        ),
    )
    return server


def link(port: str) -> Server:
    limits = replace(
        LINK_LIMITS,
        max_connections=15_000,
        handshake_rate=ANY_HANDSHAKES,
        handshake_burst=ANY_HANDSHAKES,
    )
    inner = Listen(endpoint=f"tcp://{HOST}:{port}", inner=True, handlers=Handlers())
    return Server(inner, id=SERVER_ID, cluster_key=CLUSTER_KEY, link_limits=limits)


if __name__ == "__main__":
    kind, port, *directory = sys.argv[1:]
    (tls(port, Path(*directory)) if kind == "tls" else link(port)).run()
