"""Load tests: robots that live a scenario against a server, and what they found. `gatelink robots` runs them."""

from gatelink.robots.robot import Robot
from gatelink.robots.runner import Run
from gatelink.robots.tally import Tally

__all__ = ["Robot", "Run", "Tally"]
