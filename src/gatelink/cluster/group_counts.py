"""How many sessions are in a broadcast group: each gateway counts its own, and is asked over the engine."""

import asyncio

import msgspec

from gatelink.cluster.engine import Engine, EngineUnavailable, NoResponder, Subscription
from gatelink.cluster.links import GATEWAY
from gatelink.cluster.registry import Registry
from gatelink.errors import RequestFailed
from gatelink.session.groups import MAX_NAME, Groups, check_name

COUNT_SECONDS = 2.0
"""How long a gateway may take to answer. Then it is among the unanswered ones."""

_NAME_BYTES = 4 * MAX_NAME


class GroupCount(msgspec.Struct, frozen=True):
    """members: sessions in the group at the gateways that answered, with those that wait for a new connection.

    unanswered: the ids of the gateways that did not answer within 2 s, and those that can't count groups.
    """

    members: int
    unanswered: tuple[int, ...] = ()


async def serve_counts(engine: Engine, gateway: int, groups: Groups) -> Subscription:
    """Answer for one gateway. Raises EngineUnavailable."""

    async def count(data: bytes) -> bytes:
        if len(data) > _NAME_BYTES:
            raise ValueError(f"a group's name of {len(data)} bytes")
        return str(len(groups.members(data.decode("utf-8", "surrogatepass")))).encode()

    return await engine.serve(f"gateway.{gateway}.count", count)


async def count_members(engine: Engine, registry: Registry, group: str) -> GroupCount:
    """Ask all gateways at once. group: the gateways' name of it. Raises LocalError for a name that no group can have.

    If the engine is away, no gateway answers.
    """
    check_name(group)
    ids = sorted(info.id for info in registry.servers.values() if info.type == GATEWAY)
    name = group.encode("utf-8", "surrogatepass")
    counts = await asyncio.gather(*(_count_at(engine, id, name) for id in ids))
    unanswered = tuple(id for id, count in zip(ids, counts, strict=True) if count is None and id in registry.servers)
    return GroupCount(sum(count or 0 for count in counts), unanswered)


async def _count_at(engine: Engine, gateway: int, name: bytes) -> int | None:
    try:
        return int(await engine.request(f"gateway.{gateway}.count", name, COUNT_SECONDS))
    except (EngineUnavailable, NoResponder, RequestFailed, ValueError):
        return None
