"""The public test kit: for a game's own tests of its servers and clients under bad conditions."""

from gatelink.cluster.engines.memory import MemoryEngine
from gatelink.testing.base_client import CLOSED, BaseClient, Received
from gatelink.testing.chaos import ChaosProxy
from gatelink.testing.clock import FakeClock
from gatelink.testing.faults import Delay, Drop, Fault, HalfClose, Refuse, Reset, Split, Stall

__all__ = [
    "CLOSED",
    "BaseClient",
    "ChaosProxy",
    "Delay",
    "Drop",
    "FakeClock",
    "Fault",
    "HalfClose",
    "Received",
    "MemoryEngine",
    "Refuse",
    "Reset",
    "Split",
    "Stall",
]
