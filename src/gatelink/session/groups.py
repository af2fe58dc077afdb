"""Broadcast groups: sets of sessions by name, which a session leaves by itself when it ends."""

from typing import Protocol

from gatelink.errors import LocalError
from gatelink.session.outbox import Full

MAX_NAME = 255
"""Characters of a group's name."""

MAX_OF_ONE = 1_000
"""Groups that one session may be in."""


def check_name(group: str) -> None:
    """Raises LocalError for the name of a group that is empty or too long."""
    if not 0 < len(group) <= MAX_NAME:
        raise LocalError(f"a group's name of {len(group)} characters; it has 1 to {MAX_NAME}")


class Member(Protocol):
    """What a group has of a session."""

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def send_frames(self, frames: list[bytes]) -> None: ...


class Groups:
    """The groups of one server; a group is there as long as somebody is in it."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, None]] = {}
        self._groups_of: dict[Member, set[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, session: Member, group: str) -> None:
        """Raises LocalError for a name that is empty or too long, or one group too many."""
        check_name(group)
        mine = self._groups_of.setdefault(session, set())
        if len(mine) >= MAX_OF_ONE and group not in mine:
            raise LocalError(f"a session in {MAX_OF_ONE} groups joins another; that is the most")
        mine.add(group)
        self._members.setdefault(group, {})[session] = None

    def leave(self, session: Member, group: str) -> None:
        """Does nothing if the session is not in the group."""
        mine = self._groups_of.get(session)
        if mine is None or group not in mine:
            return
        mine.discard(group)
        if not mine:
            del self._groups_of[session]
        members = self._members[group]
        del members[session]
        if not members:
            del self._members[group]

    def leave_all(self, session: Member) -> None:
        """The session has ended."""
        for group in list(self._groups_of.get(session, ())):
            self.leave(session, group)

    def members(self, group: str) -> list[Member]:
        """The sessions in a group at this moment, in the order in which they joined. Raises LocalError as `join`."""
        check_name(group)
        return list(self._members.get(group, ()))

    def of(self, session: Member) -> frozenset[str]:
        """The groups that a session is in."""
        return frozenset(self._groups_of.get(session, ()))
