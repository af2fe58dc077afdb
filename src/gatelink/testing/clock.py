"""A clock that moves only by `advance`, for components that take a `clock`."""


class FakeClock:
    """A call returns seconds, like `time.monotonic`. They pass only by `advance`.

    now: the first value. The default is as after a fresh boot, and far from any real clock, so code that mixes the two
    fails.
    """

    def __init__(self, now: float = 17.25) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` (0 or more) pass. Raises ValueError below 0: a monotonic clock never goes back."""
        if seconds < 0:
            raise ValueError(f"advance({seconds}): a monotonic clock never goes back; pass 0 or more seconds")
        self._now += seconds
