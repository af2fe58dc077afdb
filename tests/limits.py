"""Limits that `Limits` refuses, for tests that want a queue to fill soon."""

from msgspec.structs import force_setattr, replace

from gatelink.config import Limits


def with_window(limits: Limits, frames: int | None = None, size: int | None = None) -> Limits:
    """`limits` with a send window so small that a peer acknowledges it only after a second."""
    small = replace(limits)
    if frames is not None:
        force_setattr(small, "window_frames", frames)
    if size is not None:
        force_setattr(small, "window_bytes", size)
    return small
