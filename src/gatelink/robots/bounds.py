"""Bounds of latencies that a load test must keep, as `p99=50ms` or `say.p99=50ms`."""

import re
from collections.abc import Sequence

import msgspec

from gatelink.errors import ConfigError
from gatelink.robots.tally import Latency, LatencyHistogram, milliseconds

_FORM = re.compile(r"(?:(?P<name>.+)\.)?(?P<figure>p50|p95|p99|longest)=(?P<number>\d+(?:\.\d+)?)(?P<unit>us|ms|s)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Bound(msgspec.Struct, frozen=True):
    """The most, in seconds, that a figure may be. name: of the latency; "": of each one."""

    name: str
    figure: str
    most: float
    text: str  # as it was given

    @classmethod
    def parse(cls, text: str) -> "Bound":
        """Raises ConfigError for what is no bound."""
        found = _FORM.fullmatch(text)
        if found is None:
            what = "a figure (p50, p95, p99 or longest) and a time, as p99=50ms or say.p99=0.2s"
            raise ConfigError(f"{text!r} is no bound; write {what}")
        return cls(found["name"] or "", found["figure"], float(found["number"]) * _UNITS[found["unit"]], text)


def exceeded(bounds: Sequence[Bound], latencies: dict[str, LatencyHistogram]) -> list[str]:
    """The bounds that were not kept, in words. A bound of a latency that was never measured was not kept, either."""
    found = []
    for bound in bounds:
        named = {name: Latency.of(each) for name, each in latencies.items() if bound.name in ("", name)}
        if not named:
            found.append(f"{bound.text}: nothing was measured" + (f" as {bound.name}" if bound.name else ""))
        for name, latency in named.items():
            value = latency.figure(bound.figure)
            if value > bound.most:
                found.append(f"{bound.text}: {bound.figure} of {name} is {milliseconds(value)}")
    return found
