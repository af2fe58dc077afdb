"""A step: one promise, and the function that checks it."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from gatelink.conformance.bench import Bench
from gatelink.conformance.server import Transport

Check = Callable[[Bench], Awaitable[None]]


class Step(Struct, frozen=True):
    """name: on the command line and in reports. group: the file that it is in. promise: the docstring of `check`.

    slow: it takes more than 0.4 s, and is not in a short run. only: the transport that it is about; None: each.
    seconds: the step fails if it takes longer, whatever it waits for.
    """

    name: str
    group: str
    promise: str
    check: Check
    slow: bool
    only: Transport | None
    seconds: float


STEPS: dict[str, Step] = {}
"""All steps, in the order of a run."""


def step(*, slow: bool = False, only: Transport | None = None, seconds: float = 30.0) -> Callable[[Check], Check]:
    """Register a function as the step of its name. The arguments are those of `Step`."""

    def register(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        assert name not in STEPS, name
        promise = " ".join((check.__doc__ or "").split())
        STEPS[name] = Step(name, check.__module__.rpartition(".")[2], promise, check, slow, only, seconds)
        return check

    return register
