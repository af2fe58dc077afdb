"""A server as its whole process: open files are allowed, signals stop it, and garbage is looked for quickly."""

import asyncio
import gc
import signal
from typing import TYPE_CHECKING

import structlog

from gatelink.ops import logs, process

if TYPE_CHECKING:
    from gatelink.server import Server

log = structlog.get_logger("gatelink.server")


async def serve(server: "Server") -> None:
    """`Server.serve`."""
    started = asyncio.Event()
    asked = asyncio.Event()
    living = asyncio.get_running_loop().create_task(_live(server, started, asked))
    hurried = False
    heard = 0

    def gather_all() -> None:
        nonlocal heard
        heard += 1
        process.stop_within(server.stop_seconds if heard == 1 else 0.0)

    def on_signal() -> None:
        nonlocal hurried
        if not hurried and (asked.is_set() or not started.is_set()):
            hurried = living.cancel()
        asked.set()

    def on_hangup() -> None:
        logs.reopen()
        server.reload()

    calls = {signal.SIGTERM: on_signal, signal.SIGINT: on_signal, signal.SIGHUP: on_hangup}
    with process.signals(calls, gather_all=gather_all):
        try:
            await living
        except asyncio.CancelledError:
            if not hurried:
                raise


async def _live(server: "Server", started: asyncio.Event, asked: asyncio.Event) -> None:
    """From start to stop; when it is cancelled, it stops without grace."""
    _allow_files(server)
    server._on_end = asked.set
    await server.start()
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again stops the loop for 10 to 30 ms each time
    try:
        started.set()
        await asked.wait()
        if server.is_running:
            log.info("stopping", grace=server.limits.close_timeout)
            await server.stop()
    finally:
        await server.stop(0)  # nothing, unless we were cancelled


def _allow_files(server: "Server") -> None:
    needed, allowed = process.allow_files(server.most_connections)
    if allowed < needed:
        log.warning("fewer open files than max_connections: raise ulimit -Hn", needed=needed, allowed=allowed)
