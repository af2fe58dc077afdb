"""The start of the command `gatelink`, while Python still imports: it ends without a traceback.

`gatelink/__init__.py` imports this module first. In a program of your own it does nothing.
"""

import os
import signal
import sys


def is_command() -> bool:
    """Whether this process was started as `gatelink` or as `python -m gatelink`."""
    if sys.argv[:1] == ["-m"]:  # what Python writes there until it has found the module
        return sys.orig_argv[-len(sys.argv)] in ("gatelink", "-mgatelink")
    return bool(sys.argv) and os.path.basename(sys.argv[0]) == "gatelink"


def begin() -> None:
    """Let Ctrl-C end the process by the signal, and a core that can't be used with one line and status 78."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import gatelink._native  # noqa: F401
    except ImportError as error:
        print(f"gatelink: {error}", file=sys.stderr)
        sys.exit(os.EX_CONFIG)


def imported() -> None:
    """Everything is imported: from now on Ctrl-C is a KeyboardInterrupt, or what the command makes of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command():
    begin()
