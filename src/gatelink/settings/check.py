"""What a configuration needs and only its use would show: its secrets, its certificates."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.errors import ConfigError
from gatelink.net.listen import Listen
from gatelink.settings.build import account_url, build_engine, build_listen, cluster_keys, open_tokens, server_keys
from gatelink.settings.load import where
from gatelink.settings.settings import Settings


def problems_with_secrets(settings: Settings, file: Path) -> list[str]:
    """What would keep the processes of `settings` from starting for a secret or a certificate; none is started.

    file: the configuration, which errors name.
    """
    steps: list[Callable[[], object]] = [
        lambda: build_engine(settings),
        lambda: asyncio.run(_try_tokens(settings)),
        lambda: account_url(settings.accounts),
    ]
    if settings.gateway is not None:
        steps += [
            partial(_try_certificate, listen, file, index)
            for index, listen in enumerate(build_listen(settings.gateway, 0))
        ]
    if settings.gateway is not None or settings.services:
        steps += [lambda: cluster_keys(settings), lambda: server_keys(settings)]
    problems = []
    for step in steps:
        try:
            step()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _try_certificate(listen: Listen, file: Path, index: int) -> None:
    try:
        listen.tls()
    except ConfigError as error:
        raise ConfigError(f"{where(file, ('gateway', 'listen', index))}: {error}") from None


async def _try_tokens(settings: Settings) -> None:
    async with MemoryEngine() as engine, open_tokens(settings, engine, issues=settings.login is not None):
        pass
