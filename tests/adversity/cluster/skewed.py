"""`python -m tests.adversity.cluster.skewed SECONDS ARGUMENTS...`: a gatelink command whose clock steps at SIGUSR1.

Python's time.time() is SECONDS off from then on. Code that reads the clock otherwise, as for log lines, sees no step.
"""

import signal
import sys
import time
from threading import Thread


def skew(seconds: float) -> None:
    """Let time.time() be `seconds` off as soon as SIGUSR1 comes."""
    read, off = time.time, 0.0

    def step() -> None:
        nonlocal off
        signal.sigwait({signal.SIGUSR1})
        off = seconds

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    Thread(target=step, daemon=True).start()
    time.time = lambda: read() + off


if __name__ == "__main__":
    skew(float(sys.argv[1]))
    sys.argv[:] = ["gatelink", *sys.argv[2:]]
    from gatelink.cli import main  # after `skew`: modules keep the clock that they find

    main()
