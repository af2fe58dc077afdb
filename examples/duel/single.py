"""The duel in one process: `gatelink serve examples.duel.single:server`."""

import os

from examples.duel.duel import Duel
from examples.duel.leaders import Leaderboard
from gatelink import Server, StaticTokens

server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens())
server.register(Duel(server, Leaderboard(os.environ.get("DUEL_SCORES", ":memory:"))))
