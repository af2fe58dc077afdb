"""Strict robots for the duel: pairs that play, break off, and check every board.

gatelink robots examples.duel.robots:Duellist --count 20
"""

import asyncio

from examples.duel.messages import Accepted, Board, Challenge, Invite, Play, Row, Top
from gatelink import RequestFailed, Session
from gatelink.robots import Robot


class Duellist(Robot):
    """Robots 0 and 1 play each other, 2 and 3, and so on; the even ones invite."""

    async def run(self) -> None:
        self.board: Board | None = None
        self.moved = asyncio.Event()
        self.rival = (self.number ^ 1) + 1
        await self.connect()
        while True:
            await asyncio.sleep(self.random.uniform(0.1, 0.5))
            if self.is_playing:
                await self.play()
            elif self.number % 2 == 0:
                await self.invite()
            if self.random.random() < 0.05:
                await self.break_off_and_come_back()

    @property
    def is_playing(self) -> bool:
        return self.board is not None and self.board.next != 0

    async def invite(self) -> None:
        try:
            with self.measure("invite"):
                self.see(await self.request(Invite(self.rival), timeout=20))
        except RequestFailed:
            # the rival is not there yet, or breaks off
            self.count("invitations without a match")

    async def play(self) -> None:
        board = self.board
        if board is None or board.next != self.uid:
            return
        free = [at for at, mark in enumerate(board.cells) if mark == "."]
        with self.measure("play"):
            self.see(await self.request(Play(self.random.choice(free))))
        if not self.is_playing:
            await self.check_leaders()

    async def check_leaders(self) -> None:
        leaders = await self.request(Top(100))
        rows: list[Row] = leaders.rows
        if sorted(rows, key=lambda row: (-row.wins, row.played, row.uid)) != rows:
            self.fail("the leaderboard is not in order")
        if not any(row.uid == self.uid for row in rows) and len(rows) < 100:
            self.fail("the leaderboard lacks a player")

    async def break_off_and_come_back(self) -> None:
        self.count("breaks")
        was = self.board if self.is_playing else None
        await self.disconnect(abruptly=True)
        await self.connect()
        if was is not None:
            board = await self.expect(Board)
            if board.match == was.match and sum(
                mark == "." for mark in board.cells
            ) > sum(mark == "." for mark in was.cells):
                self.fail("the match stood further before the break")

    def on_challenge(self, session: Session, message: Challenge) -> Accepted:
        if message.uid != self.rival:
            self.fail(f"challenged by {message.uid}, not by {self.rival}")
        return Accepted()

    def on_board(self, session: Session, board: Board) -> None:
        self.see(board)

    def see(self, board: Board) -> None:
        """Check that a board follows the one before: one new mark, X first."""
        x, o = board.cells.count("X"), board.cells.count("O")
        if x - o not in (0, 1):
            self.fail(f"{x} X and {o} O on one board")
        before = self.board
        if before is not None and before.match == board.match:
            if len(before.cells.strip(".")) and any(
                old not in (".", new)
                for old, new in zip(before.cells, board.cells, strict=True)
            ):
                # an older board: the answer to a move comes before boards that were sent
                # earlier
                return
        self.board = board
