"""What an engine counts; plain numbers, read when somebody scrapes the metrics."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from gatelink.cluster.engine import EngineError


class EngineStats:
    """What one engine has counted since it was made. Only grows.

    `calls`, `seconds` and `failures` are by the call's name in `Engine` (`get`, `request`, ...), failures also by the
    name of the error. Conflict and NoResponder are answers that callers reckon with; they count as failures too.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()  # by (call, error)
        self.seconds: dict[str, float] = {}
        self.losses = 0  # connections to the engine that were lost
        self.resyncs = 0  # times that a watch had to begin again
        self.contents_lost = 0  # times that the bucket was found emptied, made again or older
        self.dropped = 0  # messages that came faster than they were handled
        self.served = 0  # requests handled here
        self.served_failed = 0  # whose handler raised or took longer than the caller waits
        self.served_refused = 0  # refused, as too many were being handled
        self.handler_errors = 0  # raised by handlers of events

    @contextlib.contextmanager
    def timing(self, call: str) -> Iterator[None]:
        """Counts a call, its time, and how it failed."""
        started = time.monotonic()
        self.calls[call] += 1
        try:
            yield
        except EngineError as error:
            self.failures[call, type(error).__name__] += 1
            raise
        finally:
            self.seconds[call] = self.seconds.get(call, 0.0) + time.monotonic() - started
