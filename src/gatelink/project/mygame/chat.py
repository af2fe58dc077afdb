"""The handlers. `app` is a `Server`, or a `Service` behind gateways."""

from gatelink import Peer, Server
from mygame.messages import Said, Say

EVERYBODY = "everybody"


class Chat:
    """One room, in which all players are."""

    def __init__(self, app: Server) -> None:
        self.app = app

    def on_verified(self, player: Peer) -> None:
        player.join(EVERYBODY)

    def on_say(self, player: Peer, message: Say) -> None:
        self.app.broadcast_to(EVERYBODY, Said(player.uid, message.text))
