"""Traces: what happens to a cluster of two gateways and two services, step by step, drawn at random.

The model of one login draws them with hypothesis and runs them on engines in memory. `tests.adversity.traces` draws
them from a seed and runs them on a real nats-server.
"""

from random import Random
from typing import Any

from hypothesis import strategies as st

GATEWAYS = (1, 2)
SERVICES = (20, 21)
USERS = ((7, 0), (7, 1), (8, 0), (9, 0))
"""(uid, slot) of each device."""

Key = tuple[int, int]

Step = tuple[Any, ...]
"""The name of what happens, and to whom."""

_LINKS = ((1, 2), (2, 1), (1, 20), (20, 1), (2, 20), (2, 21), (1, 21))
_KICKED = ((7, None), (7, 0), (7, 1), (8, None), (9, None))

_KINDS: tuple[tuple[int, tuple[str, ...], tuple[tuple[Any, ...], ...]], ...] = (
    (8, ("login",), (GATEWAYS, USERS)),
    (2, ("logout",), (GATEWAYS, USERS)),
    (3, ("speak", "wait", "mend", "copy"), ()),
    (2, ("empty", "restore", "restart"), (GATEWAYS,)),  # with the gateway that is back first
    (4, ("away", "back", "back", "unserved"), (GATEWAYS,)),
    (1, ("die",), (GATEWAYS,)),
    (2, ("cut",), (_LINKS,)),
    (3, ("kick",), ((*GATEWAYS, *SERVICES), _KICKED)),  # by the server that is asked
    (1, ("ban",), ((*GATEWAYS, *SERVICES), (7, 8))),
)
"""How often of 26, what, and to whom."""

STEPS: st.SearchStrategy[Step] = st.one_of(
    *(
        st.tuples(st.sampled_from(names), *(st.sampled_from(options) for options in of_whom))
        for weight, names, of_whom in _KINDS
        for _ in range(weight)
    )
)


def drawn(random: Random) -> Step:
    """One step, from a seed."""
    (_, names, of_whom), *_ = random.choices(_KINDS, [weight for weight, *_ in _KINDS])
    return random.choice(names), *(random.choice(options) for options in of_whom)
