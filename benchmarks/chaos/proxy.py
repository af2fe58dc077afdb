"""The proxy, in a process of its own: `python -m benchmarks.chaos.proxy`, with commands on its stdin."""

from typing import Any

import uvloop

from benchmarks.chaos.plan import Plan
from benchmarks.children import obey
from benchmarks.harness import HOST
from gatelink.testing import ChaosProxy


async def main() -> None:
    proxy: ChaosProxy | None = None

    async def start(port: int, seed: int, sessions: int, scheme: str) -> int:
        """Its port."""
        nonlocal proxy
        proxy = ChaosProxy((HOST, port), Plan(seed, sessions, scheme), seed=seed, max_connections=8_000)
        await proxy.__aenter__()
        return proxy.address[1]

    def report() -> dict[str, Any]:
        assert proxy is not None
        return {
            "connections": proxy.connections,
            "breaks": proxy.breaks,
            "by": proxy.breaks_by,
            "bytes": proxy.bytes_up + proxy.bytes_down,
        }

    try:
        await obey({"start": start, "report": report})
    finally:
        if proxy is not None:
            await proxy.__aexit__()


if __name__ == "__main__":
    uvloop.run(main())
