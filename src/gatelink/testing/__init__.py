"""The public test kit: what a game's own tests need to try its servers and clients under adversity."""

from gatelink.group.engines.memory import MemoryEngine
from gatelink.testing.chaos import ChaosProxy
from gatelink.testing.clock import FakeClock
from gatelink.testing.faults import Delay, Drop, Fault, HalfClose, Refuse, Reset, Split, Stall

__all__ = [
    "ChaosProxy",
    "Delay",
    "Drop",
    "FakeClock",
    "Fault",
    "HalfClose",
    "MemoryEngine",
    "Refuse",
    "Reset",
    "Split",
    "Stall",
]
