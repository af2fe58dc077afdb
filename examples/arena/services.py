"""The arena as services of a cluster: `gatelink up examples/arena/cluster.toml --dev`."""

from examples.arena.game import Lobby, Room
from examples.arena.messages import LOBBY, ROOM
from gatelink import Service

lobby = Service("lobby", type=LOBBY)
lobby.register(Lobby(lobby))

room = Service("room", type=ROOM)
room.register(Room(room))
