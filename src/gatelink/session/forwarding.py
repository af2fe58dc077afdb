"""What decides whether the frames of a player's read are only forwarded: the tables of a gateway, and its player."""

from collections.abc import Container

from gatelink._native import compiled


@compiled
class ForwardTable:
    """What all players of a gateway share.

    table: the server type of each message id, 0 for none. handled_here: ids of the messages that have a handler in the
    gateway. is_holding: whether the frames of all players wait.
    """

    def __init__(self, table: bytes, handled_here: Container[int]) -> None:
        self.table = table
        self.handled_here = handled_here
        self.is_holding = False


@compiled
class ForwardPath:
    """One player of a gateway. sid: the number of its session between the gateway and its services.

    The compiled core gives the frames of a read, which it has put into a ClientFrame, to `forward_to`.
    """

    __slots__ = ("router", "sid")

    def __init__(self, router: ForwardTable, sid: int) -> None:
        self.router = router
        self.sid = sid

    def forward_to(self, type: int, envelope: bytes, count: int) -> None:
        """Send a ClientFrame of `count` frames to the player's server of a type."""
        raise NotImplementedError
