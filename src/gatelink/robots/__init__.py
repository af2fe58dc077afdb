"""Load tests: robots that live a scenario against a server, and what they found. `gatelink robots` runs them."""

from gatelink.robots.load_test import LoadTest
from gatelink.robots.robot import Robot
from gatelink.robots.tally import Tally

__all__ = ["Robot", "LoadTest", "Tally"]
