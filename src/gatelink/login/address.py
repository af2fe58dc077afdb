"""Where the login service listens."""

from urllib.parse import urlsplit

from gatelink.errors import ConfigError


def host_and_port(url: str) -> tuple[str, int]:
    """Where `http://host:port` is; raises ConfigError for anything else."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.scheme != "http" or parts.path not in ("", "/"):
        raise ConfigError(
            f"login cannot listen on {url!r}; write it as http://127.0.0.1:8080 (TLS is a reverse proxy's, in front)"
        )
    return host, port
