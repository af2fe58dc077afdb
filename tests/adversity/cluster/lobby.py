"""The service of the rig: it answers each message, and writes down which messages it handled, and when."""

import os
from pathlib import Path

from gatelink import Player, Service
from tests.adversity.cluster.events import Handled, Journal, Told, now
from tests.adversity.cluster.messages import CATALOG, JOURNAL, LOBBY, Down, Up

lobby = Service("lobby", type=LOBBY, catalog=CATALOG)
journal = Journal(Path(os.environ[JOURNAL]))


@lobby.on(Up)
def up(player: Player, message: Up) -> None:
    journal.note(Handled(now(), player.uid, message.login, message.number, lobby.id, player.fence))
    player.send(Down(message.login, message.number))


@lobby.on_verified
def verified(player: Player) -> None:
    if player.lost_messages:
        journal.note(Told(now(), player.uid, player.lost_messages, lobby.id))
