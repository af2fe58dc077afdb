"""The record of a load test that is over: what its report shows, and what a later report can be compared with."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gatelink.errors import ConfigError
from gatelink.robots import display
from gatelink.robots.tally import Latency, Second, Tally
from gatelink.version import __version__

BUSY = 0.8
"""Cores of the robots' own process from which its figures are more about the robots than about the server."""

_EMBEDDED = re.compile(r"<!-- gatelink robots (\{.*?\}) -->", re.DOTALL)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """title, what: of the run, for people. facts: by name, as its host. ended: why it was over before its time, or "".

    cpu: cores that the robots' own process used. errors: one line for each text. exceeded: the bounds that it did not
    keep. marks: (seconds from the start, what happened then).
    """

    title: str
    what: str
    facts: dict[str, str]
    ended: str = ""
    elapsed: float
    cpu: float
    sent: int
    received: int
    all_errors: int
    errors: list[str]
    exceeded: list[str] = []
    counts: dict[str, int]
    most_sessions: int
    all_sessions: int
    latencies: dict[str, Latency]
    seconds: list[Second]
    marks: list[tuple[float, str]] = []

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        title: str,
        what: str,
        ended: str = "",
        exceeded: Sequence[str] = (),
        marks: Sequence[tuple[float, str]] = (),
    ) -> "Record":
        """The record of a tally whose run is over."""
        return cls(
            title=title,
            what=what,
            facts=facts(),
            ended=ended,
            elapsed=tally.elapsed,
            cpu=tally.cpu,
            sent=tally.sent,
            received=tally.received,
            all_errors=tally.errors,
            errors=display.errors(tally).splitlines(),
            exceeded=list(exceeded),
            counts=dict(tally.counts),
            most_sessions=tally.most_sessions,
            all_sessions=tally.all_sessions,
            latencies={name: Latency.of(histogram) for name, histogram in tally.latencies.items()},
            seconds=list(tally.seconds),
            marks=list(marks),
        )

    @property
    def held(self) -> bool:
        """Whether there are no errors, and all bounds were kept."""
        return not self.all_errors and not self.exceeded

    @property
    def embedded(self) -> str:
        """A comment of HTML with all of it. No tag, and no end of the comment, can be in its text."""
        text = msgspec.json.encode(self).decode()
        safe = re.sub("[<>&]|-(?=-)", lambda found: f"\\u{ord(found[0]):04x}", text)
        return f"<!-- gatelink robots {safe} -->"


def read(file: Path) -> Record:
    """The record that a report has in it. Raises ConfigError."""
    try:
        found = _EMBEDDED.search(file.read_text(encoding="utf-8"))
        if found is not None:
            return msgspec.json.decode(found[1], type=Record)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} can't be read as a report of robots: {error}") from None
    raise ConfigError(f"{file} has no record of robots in it; give a page that --report of this version has written")


def facts() -> dict[str, str]:
    """Where and with what this process ran."""
    return {
        "gatelink": __version__,
        "Python": platform.python_version(),
        "host": platform.node(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.machine()}",
    }
