"""Load tests: robots run a scenario against a server and count the results. `gatelink robots` runs them."""

from gatelink.robots.load_test import LoadTest
from gatelink.robots.robot import Options, Robot
from gatelink.robots.tally import Tally

__all__ = ["LoadTest", "Options", "Robot", "Tally"]
