"""Following the entries below a prefix of the engine, for as long as a process lives."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from gatelink import tasks
from gatelink.cluster.engine import Engine


async def follow(
    engine: Engine,
    prefix: str,
    known: Callable[[], Iterable[str]],
    changed: Callable[[str, bytes | None], None],
    name: str,
) -> "asyncio.Task[None]":
    """Pass on the entries below `prefix`, then start a task that passes on each change; None is for one that is gone.

    known: the keys that the caller has, so that it learns of those that vanished while nobody watched. name: of the
    task, which lives until it is cancelled. Raises what goes wrong before the present entries are passed on.
    """
    ready = asyncio.get_running_loop().create_future()
    following = tasks.live(partial(_follow, engine, prefix, known, changed, ready), name)
    try:
        await ready
    except BaseException:
        await tasks.cancel_and_wait(following)
        raise
    return following


async def _follow(
    engine: Engine,
    prefix: str,
    known: Callable[[], Iterable[str]],
    changed: Callable[[str, bytes | None], None],
    ready: "asyncio.Future[None]",
) -> None:
    try:
        async with engine.watch(prefix) as watch:
            for key in [key for key in known() if key not in watch.entries]:
                changed(key, None)
            for key, value in list(watch.entries.items()):
                changed(key, value)
            if not ready.done():
                ready.set_result(None)
            async for change in watch:
                changed(change.key, change.value)
    except Exception as error:
        if ready.done():
            raise  # `tasks.live` follows again after a pause
        ready.set_exception(error)
