"""What robots and lobbies write down: one JSON line for each event.

All processes of a rig run on one machine, so `at` is of one clock: CLOCK_MONOTONIC, in seconds.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Event(msgspec.Struct, array_like=True, frozen=True, tag=True, gc=False):
    """Something that happened at `at`."""

    at: float


class Opened(Event, frozen=True):
    """The robot with this `uid` got a session at `gateway`: its login number `login`."""

    uid: int
    login: int
    gateway: str


class Sent(Event, frozen=True):
    """The robot's session accepted message `number`."""

    uid: int
    login: int
    number: int


class Handled(Event, frozen=True):
    """A handler of lobby `server` was called with a message, and with this `player.fence`."""

    uid: int
    login: int
    number: int
    server: int
    fence: tuple[int, int]


class Told(Event, frozen=True):
    """A lobby heard from gatelink how many messages of this user's session were lost with the lobby before."""

    uid: int
    lost: int
    server: int


class Answered(Event, frozen=True):
    """The answer to message `number` came to the robot."""

    uid: int
    login: int
    number: int


class Ended(Event, frozen=True):
    """A session ended, with a close code of docs/protocol.md."""

    uid: int
    login: int
    code: int
    reason: str


class Probed(Event, frozen=True):
    """A new player asked `login` for a token at `at`, and was answered by a lobby `seconds` later, or met `error`.

    has_token: whether the login gave one.
    """

    login: str
    seconds: float
    error: str
    has_token: bool


class Health(Event, frozen=True):
    """The /healthz of a login was asked at `at`: the status of its answer, 0 without one."""

    login: str
    status: int


AnyEvent = Opened | Sent | Handled | Told | Answered | Ended | Probed | Health

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyEvent).decode


class Journal:
    """A file of events. A process that is killed loses none of the events that it has noted."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, *events: Event) -> None:
        os.write(self._file, b"".join(_encode(event) + b"\n" for event in events))


def read(path: Path, offset: int = 0) -> list[AnyEvent]:
    """The events of a journal from byte `offset` on, where a line begins; none if there is no such file.

    A last line without an end is left out: its writer was killed. Raises msgspec.MsgspecError for any other bad line.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(offset)
        return decode(file.readlines())


def decode(lines: Iterable[bytes]) -> list[AnyEvent]:
    """The events of these lines."""
    return [_decode(line) for line in lines if line.endswith(b"\n")]


def now() -> float:
    return time.monotonic()
