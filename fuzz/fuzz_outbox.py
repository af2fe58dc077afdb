"""Any use of an outbox and of a send window: the pure and the compiled one give, raise, hold and count the same.

The input is a script of steps. Without a compiled core there is nothing to compare, and every input passes.
"""

import importlib
from collections.abc import Callable
from typing import Any

from fuzz.harness import main
from gatelink import _native
from gatelink.errors import GatelinkError
from gatelink.session.outbox import Full
from gatelink.wire.frames import encode_frame

try:
    COMPILED: Any = importlib.import_module("gatelink._core")
except ImportError:
    COMPILED = None

POLICIES = tuple(Full)
COUNTERS = ("count", "bytes", "sent", "dropped", "held_bytes", "max_frames", "max_bytes")
OF_A_WINDOW = ("kept", "kept_bytes", "acknowledged", "window_frames", "window_bytes")


def check(script: bytes) -> None:
    if COMPILED is None:
        return
    compare(script, "Outbox", 6, 90)
    compare(script, "SendWindow", 6, 90, 4, 60)


def compare(script: bytes, name: str, *limits: int) -> None:
    twins = _native.pure[name](*limits), getattr(COMPILED, name)(*limits)
    counters = COUNTERS + (OF_A_WINDOW if name == "SendWindow" else ())
    numbers = iter(script)
    pushed = 0
    for step in numbers:
        amount = next(numbers, 0)
        pushed += 1
        frame = encode_frame(pushed % 60_000 + 1, bytes([amount]) * (amount % 50))
        pure, compiled = (outcome(use(twin, step, amount, frame)) for twin in twins)
        assert pure == compiled, f"step {step}, {amount}: {pure} and {compiled}"
        states = [[getattr(twin, each) for each in counters] for twin in twins]
        assert states[0] == states[1], (
            f"step {step}, {amount}: {dict(zip(counters, zip(*states, strict=True), strict=True))}"
        )
        assert list(twins[0].frames()) == list(twins[1].frames()), "they hold other frames"


def use(outbox: Any, step: int, amount: int, frame: bytes) -> Callable[[], Any]:
    """One step of a script: a call."""
    window = hasattr(outbox, "acknowledge")
    match step % 10:
        case 0 | 1 | 2:
            return lambda: outbox.push(frame)
        case 3:
            return lambda: outbox.push(frame, POLICIES[amount % 3])
        case 4:
            return lambda: outbox.push(frame, POLICIES[amount % 3], amount % 4)
        case 5:
            return lambda: outbox.extend([frame] * (amount % 4))
        case 6 | 7:
            return lambda: outbox.take(amount)
        case 8 if window:
            return lambda: outbox.acknowledge(outbox.acknowledged + amount % 7 - 1)
        case 8:
            return lambda: outbox.stalled(float(amount), amount % 2 == 0)
        case 9 if amount < 40:
            return lambda: outbox.adopt([frame] * (amount % 3))
        case 9 if amount < 80:
            return outbox.drain  # type: ignore[no-any-return]
        case 9 if window and amount > 250:
            return outbox.lift  # type: ignore[no-any-return]
        case _ if window:
            return outbox.unacknowledged  # type: ignore[no-any-return]
    return lambda: None


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns; of an error of ours, its type and text."""
    try:
        return call()
    except GatelinkError as error:
        return type(error), str(error)


if __name__ == "__main__":
    main(check)
