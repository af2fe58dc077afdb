"""Many sessions of one driver at once."""

from functools import partial

from gatelink.conformance.bench import Bench
from gatelink.conformance.player import Player
from gatelink.conformance.step import step

SESSIONS = 1_000
ROUNDS = 10
EACH = 10  # messages each way and round
LOGINS = 50  # at once


@step(slow=True, seconds=600)
async def crowd(bench: Bench) -> None:
    """1,000 sessions with 100,000 messages each way and 1,000 breaks: none lost, none twice, all in order."""
    bench.server.serve()
    door = await bench.server.open_door()  # without the proxy, each session needs one socket here
    players: list[Player] = []
    while len(players) < SESSIONS:
        players += [bench.connect(address=door) for _ in range(LOGINS)]
        await bench.until(partial(_all_connected, players), f"{LOGINS} logins", seconds=60)
    for round in range(ROUNDS):
        for player in players:
            bench.send(player, EACH)
            player.scripted.send_counts(EACH)
        for player in players[round::ROUNDS]:
            player.connection.abort()
        await bench.settled(*players, seconds=120)


def _all_connected(players: list[Player]) -> bool:
    return all(player.connected for player in players)
