"""The arena in one process: `gatelink serve examples.arena.single:server`."""

from examples.arena.game import Lobby, Room
from gatelink import Server, StaticTokens

server = Server("tcp://127.0.0.1:7000", tokens=StaticTokens())
server.register(Lobby(server))
server.register(Room(server))
