"""A world with 20 ticks a second: messages wait for the tick, then all players move.

gatelink serve examples.game_loop.server:server
"""

from examples.game_loop.messages import Gone, Position, Steer, catalog
from gatelink import Server, Session, StaticTokens

SPEED = 5.0  # a second
server = Server(
    "tcp://127.0.0.1:7000", tokens=StaticTokens(), catalog=catalog, tick_hz=20
)


class Player:
    """A player's place in the world: the `session.data` of its session."""

    def __init__(self) -> None:
        self.x = self.y = 0.0
        self.dx = self.dy = 0


class World:
    """A method with the name of a message is its handler: `on_steer` for Steer."""

    def on_steer(self, session: Session, message: Steer) -> None:
        session.data.dx = max(-1, min(1, message.dx))
        session.data.dy = max(-1, min(1, message.dy))


server.register(World())


@server.on_verified
def enter(session: Session) -> None:
    session.data = Player()


@server.on_closed
def leave(session: Session) -> None:
    server.sessions.broadcast(Gone(session.uid))


@server.on_tick
def move(seconds: float) -> None:
    for session in server.sessions:
        player = session.data
        if player.dx or player.dy:
            player.x += player.dx * SPEED * seconds
            player.y += player.dy * SPEED * seconds
            # A key for each player: a slow reader misses old places of the player, never
            # the newest.
            server.sessions.broadcast(
                Position(session.uid, player.x, player.y), key=session.uid + 1
            )
