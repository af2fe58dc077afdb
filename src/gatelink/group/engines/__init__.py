"""The implementations of `gatelink.group.engine.Engine`, and the URL that names one."""

from gatelink.errors import ConfigError, needing
from gatelink.group.engine import Engine
from gatelink.group.engines.memory import MemoryEngine


def engine_from(url: str, *, name: str = "gatelink") -> Engine:
    """The engine that `url` names, not started.

    `memory`: in this process. `embedded`: a nats-server that is this process' child. `nats://user:password@host:port`
    or `tls://...`: servers of NATS, several with commas between. name: shown in the monitoring of NATS.
    Raises ConfigError.
    """
    if url == "memory":
        return MemoryEngine()
    with needing("group", f"the engine {url.partition(':')[0]}"):
        if url == "embedded":
            from gatelink.group.engines.embedded import EmbeddedEngine

            return EmbeddedEngine(name=name)
        if url.startswith(("nats://", "tls://")):
            from gatelink.group.engines.nats import NatsEngine

            return NatsEngine(url.split(","), name=name)
    raise ConfigError("the engine is none of: memory, embedded, nats://host:port, tls://host:port")
