"""The leaderboard, in SQLite.

Its calls run in a thread, so that no disk holds up the loop.
"""

import asyncio
import sqlite3

from examples.duel.messages import Row

SCHEMA = """CREATE TABLE IF NOT EXISTS leaders
    (uid INTEGER PRIMARY KEY, wins INTEGER NOT NULL, played INTEGER NOT NULL)"""
COUNT = """INSERT INTO leaders VALUES (?, ?, 1)
    ON CONFLICT (uid) DO UPDATE SET wins = wins + excluded.wins, played = played + 1"""
BEST = "SELECT uid, wins, played FROM leaders ORDER BY wins DESC, played, uid LIMIT ?"


class Leaderboard:
    """path: the database's file, or `:memory:`."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute(SCHEMA)
        self._turn = asyncio.Lock()  # one call at a time

    async def count(self, players: tuple[int, ...], winner: int) -> None:
        """A match is over. winner: 0 in a draw."""
        async with self._turn:
            await asyncio.to_thread(
                self._count, [(uid, int(uid == winner)) for uid in players]
            )

    async def top(self, most: int) -> list[Row]:
        async with self._turn:
            return await asyncio.to_thread(self._top, most)

    async def close(self) -> None:
        """End it, after the calls that are under way. It takes none any more."""
        async with self._turn:
            self._connection.close()

    def _count(self, rows: list[tuple[int, int]]) -> None:
        with self._connection:
            self._connection.executemany(COUNT, rows)

    def _top(self, most: int) -> list[Row]:
        return [
            Row(*row) for row in self._connection.execute(BEST, (max(1, min(most, 100)),))
        ]
