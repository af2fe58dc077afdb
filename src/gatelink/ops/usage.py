"""What this process uses of its machine, for the screens of operators."""

import os
import time
from time import perf_counter

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """Measures the CPU time of this process, all threads together, from one call to the next."""

    def __init__(self) -> None:
        self._last = (perf_counter(), time.process_time())

    def __call__(self) -> tuple[float, int]:
        """(cores, since the last call; resident bytes, now). 0 bytes if the system does not say."""
        now = (perf_counter(), time.process_time())
        passed, used = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return round(used / max(passed, 0.001), 3), resident_bytes()


def resident_bytes() -> int:
    """The memory of this process that is in RAM; 0 if the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
