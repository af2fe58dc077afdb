"""The duel as a service: `gatelink up examples/duel/cluster.toml --dev`."""

import os

from examples.duel.duel import Duel
from examples.duel.leaders import Leaderboard
from examples.duel.messages import DUEL
from gatelink import Service

duel = Service("duel", type=DUEL)
duel.register(Duel(duel, Leaderboard(os.environ.get("DUEL_SCORES", ":memory:"))))
