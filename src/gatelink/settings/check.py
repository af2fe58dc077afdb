"""What a configuration needs and only its use would show: its secrets."""

import asyncio
from collections.abc import Callable

from gatelink.errors import ConfigError
from gatelink.group.engines.memory import MemoryEngine
from gatelink.settings.build import account_url, build_engine, group_keys, open_tokens, server_keys
from gatelink.settings.settings import Settings


def problems_with_secrets(settings: Settings) -> list[str]:
    """What would keep the processes of `settings` from starting for a secret's sake; none is started."""
    steps: list[Callable[[], object]] = [
        lambda: build_engine(settings),
        lambda: asyncio.run(_try_tokens(settings)),
        lambda: account_url(settings.accounts),
    ]
    if settings.gateway is not None or settings.services:
        steps += [lambda: group_keys(settings), lambda: server_keys(settings)]
    problems = []
    for step in steps:
        try:
            step()
        except ConfigError as error:
            problems.append(str(error))
    return problems


async def _try_tokens(settings: Settings) -> None:
    async with MemoryEngine() as engine, open_tokens(settings, engine, issues=settings.login is not None):
        pass
