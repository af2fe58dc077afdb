"""A gateway's links for its router, without sockets and sessions."""

from types import SimpleNamespace
from typing import Any

from gatelink.cluster.registry import Load, ServerInfo
from gatelink.config import LINK_LIMITS
from gatelink.session.outbox import OutboxFull
from gatelink.session.states import SessionState


class FakeLink:
    """A link that notes what is sent on it. room: envelopes until it is crowded. is_full: it takes none at all.

    unacknowledged: what its server was sent, and may not have got.
    """

    speaks_requests = False
    is_well = True
    silent = 0.0
    limits = LINK_LIMITS
    takes_reports = False
    is_full = False

    def __init__(self, id: int, type: int) -> None:
        self.info = ServerInfo(id=id, type=type, name="a", wants_login_events=id % 2 == 0, load=Load())
        self.id, self.type = id, type
        self.session = SimpleNamespace(state=SessionState.OPEN, outbox=self)
        self.sent: list[Any] = []
        self.room = 1
        self.unacknowledged: list[bytes] = []
        self._relieved: list[Any] = []

    def push(self, whole: bytes) -> bool:
        if self.is_full:
            raise OutboxFull("full")
        self.sent.append(whole)
        self.room -= 1
        return self.room < 0

    def send_event(self, event: Any) -> None:
        self.sent.append(event)

    def when_relieved(self, call: Any) -> None:
        self._relieved.append(call)

    def relieve(self) -> None:
        self.room = 1
        calls, self._relieved = self._relieved, []
        for call in calls:
            call()

    def drain(self) -> list[bytes]:
        unsent = [each for each in self.sent[-2:] if isinstance(each, bytes)]
        for each in unsent:
            self.sent.remove(each)
        return unsent

    def frames(self) -> list[bytes]:
        return self.unacknowledged


class FakeLinks(dict[int, Any]):
    """links.Links, as much of it as a router needs."""

    def __iter__(self) -> Any:
        return iter(list(self.values()))

    def of_type(self, type: int) -> list[FakeLink]:
        return sorted((link for link in self.values() if link.type == type), key=lambda link: link.id)
