"""The handlers of the duel.

`app` is a `Server` or a `Service`: they run in one process or behind gateways.
"""

import asyncio

from examples.duel.leaders import Leaderboard
from examples.duel.match import Match
from examples.duel.messages import (
    Board,
    Challenge,
    Invite,
    Leaders,
    Play,
    Top,
    Watch,
    Why,
)
from gatelink import Peer, Refuse, RequestFailed, Server

ANSWER_SECONDS = 15.0
"""How long the challenged player may think."""


class Table:
    """A match, all who see it, and the clock of its turn."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self.group = f"match {match.number}"
        self.viewers: set[Peer] = set()
        self.away: set[int] = set()  # players without a connection
        self.clock: asyncio.TimerHandle | None = None

    def seat(self, peer: Peer) -> None:
        """The peer is sent the boards from now on."""
        peer.join(self.group)
        self.viewers.add(peer)

    def board(self) -> Board:
        match, left = self.match, 0.0
        if self.clock is not None:
            left = max(0.0, self.clock.when() - asyncio.get_running_loop().time())
        return Board(
            match.number,
            "".join(match.cells),
            *match.players,
            match.next,
            match.winner,
            left,
            sorted(self.away),
        )


class Duel:
    """All players and matches of one server. seconds: those of one turn."""

    def __init__(
        self, app: Server, leaderboard: Leaderboard, seconds: float = 20.0
    ) -> None:
        self.app = app
        self.leaderboard = leaderboard
        app.on_stop(leaderboard.close)
        self.seconds = seconds
        self.peers: dict[int, Peer] = {}
        self.tables: dict[int, Table] = {}  # by match
        self.playing: dict[int, Table] = {}  # by uid
        self.asked: set[int] = set()  # users who invite or are challenged at this moment
        self.ends: set[asyncio.Task[Board]] = set()
        self.last = 0

    # -- players that come and go --

    def on_verified(self, peer: Peer) -> None:
        """A player comes, or is back with a new session, and sees its match."""
        self.peers[peer.uid] = peer
        table = self.playing.get(peer.uid)
        if table is not None:
            table.seat(peer)
            self.set_away(peer, False)

    def on_suspended(self, peer: Peer) -> None:
        self.set_away(peer, True)

    def on_resumed(self, peer: Peer) -> None:
        self.set_away(peer, False)

    def on_closed(self, peer: Peer) -> None:
        """The player left.

        Its match goes on: the clock decides it, unless the player comes back.
        """
        for table in self.tables.values():
            table.viewers.discard(peer)
        if self.peers.get(peer.uid) is peer:
            del self.peers[peer.uid]
            self.set_away(peer, True)

    def set_away(self, peer: Peer, is_away: bool) -> None:
        table = self.playing.get(peer.uid)
        if table is not None:
            (table.away.add if is_away else table.away.discard)(peer.uid)
            self.show(table)

    # -- invitations --

    async def on_invite(self, peer: Peer, message: Invite) -> Board:
        """Asks the other player, and begins the match if it accepts."""
        other = self.peers.get(message.uid)
        if other is None or other is peer:
            raise Refuse(Why.NOT_HERE, "no such player is here")
        pair = {peer.uid, other.uid}
        if pair & self.asked or pair & self.playing.keys():
            raise Refuse(Why.BUSY, "one of you plays, or is asked just now")
        self.asked |= pair
        try:
            await other.request(Challenge(peer.uid), timeout=ANSWER_SECONDS)
        except RequestFailed as error:
            raise Refuse(
                Why.DECLINED, error.reason or "the other player declined"
            ) from None
        finally:
            self.asked -= pair
        self.last += 1
        table = self.tables[self.last] = Table(Match(self.last, peer.uid, other.uid))
        for uid in table.match.players:
            self.playing[uid] = table
            if uid in self.peers:
                table.seat(self.peers[uid])
            else:  # it has left since
                table.away.add(uid)
        return self.next_turn(table)

    # -- a match --

    async def on_play(self, peer: Peer, message: Play) -> Board:
        table = self.playing.get(peer.uid)
        if table is None:
            raise Refuse(Why.NO_MATCH, "you have no match")
        if table.match.next != peer.uid:
            raise Refuse(Why.NOT_YOUR_TURN, "it is the other player's turn")
        if not table.match.can_play(message.cell):
            raise Refuse(Why.TAKEN, "that cell is not free")
        table.match.play(message.cell)
        return self.next_turn(table) if table.match.next else await self.end(table)

    async def on_watch(self, peer: Peer, message: Watch) -> Board:
        table = self.tables.get(message.match)
        if table is None:
            raise Refuse(Why.NO_MATCH, "that match is over, or never was")
        table.seat(peer)
        return table.board()

    async def on_top(self, peer: Peer, message: Top) -> Leaders:
        return Leaders(await self.leaderboard.top(message.most))

    def next_turn(self, table: Table) -> Board:
        """Starts the clock again."""
        if table.clock is not None:
            table.clock.cancel()
        table.clock = asyncio.get_running_loop().call_later(
            self.seconds, self.run_out, table
        )
        return self.show(table)

    def run_out(self, table: Table) -> None:
        table.match.forfeit()
        task = asyncio.create_task(self.end(table))
        self.ends.add(task)
        task.add_done_callback(self.ends.discard)

    async def end(self, table: Table) -> Board:
        """Shows the last board, then counts the match."""
        if table.clock is not None:
            table.clock.cancel()
        board = self.show(table)
        del self.tables[table.match.number]
        for uid in table.match.players:
            del self.playing[uid]
        for peer in table.viewers:
            peer.leave(table.group)
        await self.leaderboard.count(table.match.players, table.match.winner)
        return board

    def show(self, table: Table) -> Board:
        """Sends the board to its players and spectators."""
        board = table.board()
        self.app.broadcast_to(table.group, board)
        return board
