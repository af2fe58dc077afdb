"""As process 1 of a container: processes whose parents have ended become ours, and we must take note of their ends."""

import asyncio
import contextlib
import ctypes
import os

INTERVAL = 1.0
"""Seconds between two looks."""

_PR_GET_CHILD_SUBREAPER = 37


def adopts() -> bool:
    """Whether processes become this one's when their parents end: process 1, or a "child subreaper"."""
    is_reaper = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(is_reaper), 0, 0, 0)
    return os.getpid() == 1 or bool(is_reaper.value)


async def reap() -> None:
    """Ends for good what has ended and nobody waits for. The loop's own children are never there at a second look."""
    before: set[int] = set()
    while True:
        await asyncio.sleep(INTERVAL)
        found = _ended_children()
        for pid in found & before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        before = found


def _ended_children() -> set[int]:
    """The ids of children that have ended, with nobody told so far."""
    me = str(os.getpid())
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent, *_ = file.read().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue  # it is gone
            if state == "Z" and parent == me:
                found.add(int(name))
    return found
