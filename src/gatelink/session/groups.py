"""Broadcast groups: sets of sessions by name, which a session leaves by itself when it ends."""

from collections.abc import Sequence
from typing import Protocol, cast

from gatelink.errors import LocalError
from gatelink.session.outbox import Full
from gatelink.session.user import User

MAX_NAME = 255
"""Characters of a group's name."""

MAX_OF_ONE = 1_000
"""Memberships of one user: two sessions in one group are two."""

MAX_NAME_BYTES = 131_072
"""Bytes of the groups' names of these memberships, in UTF-8."""


def check_name(group: str) -> None:
    """Raises LocalError for the name of a group that is no text, empty or too long."""
    if not isinstance(cast("object", group), str):
        raise LocalError(f"a group's name is a text, and {group!r} is none; write str({group!r})")
    if not 0 < len(group) <= MAX_NAME:
        raise LocalError(f"a group's name of {len(group)} characters; it has 1 to {MAX_NAME}")


def _size(group: str) -> int:
    return len(group.encode("utf-8", "surrogatepass"))


class Member(Protocol):
    """A session, as its groups see it."""

    user: User

    def send_frame(self, frame: bytes, key: int = 0, full: Full = Full.CLOSE) -> None: ...

    def send_frames(self, frames: Sequence[bytes]) -> None: ...


class Groups:
    """The groups of one server. A group exists while a session is in it."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, None]] = {}
        self._groups_of: dict[Member, set[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, session: Member, group: str) -> None:
        """Raises LocalError for a name that is empty or too long, and for one that the user has no room for."""
        check_name(group)
        mine = self._groups_of.get(session, set())
        if group in mine:
            return
        user = session.user
        size = _size(group)
        if user.groups >= MAX_OF_ONE:
            raise LocalError(f"a user whose sessions are in {MAX_OF_ONE} groups joins another; that is the most")
        if user.group_bytes + size > MAX_NAME_BYTES:
            raise LocalError(
                f"a user is in groups whose names have {user.group_bytes} bytes, and joins one of {size} more; "
                f"{MAX_NAME_BYTES} is the most"
            )
        user.groups += 1
        user.group_bytes += size
        mine.add(group)
        self._groups_of[session] = mine
        self._members.setdefault(group, {})[session] = None

    def leave(self, session: Member, group: str) -> None:
        """Do nothing if the session is not in the group."""
        mine = self._groups_of.get(session)
        if mine is None or group not in mine:
            return
        mine.discard(group)
        session.user.groups -= 1
        session.user.group_bytes -= _size(group)
        if not mine:
            del self._groups_of[session]
        members = self._members[group]
        del members[session]
        if not members:
            del self._members[group]

    def leave_all(self, session: Member) -> None:
        """Leave all groups, as the session has ended."""
        for group in list(self._groups_of.get(session, ())):
            self.leave(session, group)

    def members(self, group: str) -> list[Member]:
        """The sessions in a group at this moment, in the order in which they joined. Raises LocalError as `join`."""
        check_name(group)
        return list(self._members.get(group, ()))

    def of(self, session: Member) -> frozenset[str]:
        """The groups that a session is in."""
        return frozenset(self._groups_of.get(session, ()))
