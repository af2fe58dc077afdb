"""The rules of one match: three in a row. Nothing here knows sessions."""

LINES = ("012", "345", "678", "036", "147", "258", "048", "246")


class Match:
    """A match, without its players' connections.

    players: the uids of X, which begins, and O. next: the uid to move, 0 at the end.
    winner: a uid, 0 in a draw.
    """

    def __init__(self, number: int, x: int, o: int) -> None:
        self.number = number
        self.players = x, o
        self.cells = ["."] * 9
        self.next = x
        self.winner = 0

    def can_play(self, cell: int) -> bool:
        return 0 <= cell < 9 and self.cells[cell] == "."

    def play(self, cell: int) -> None:
        """The player in turn takes a free cell."""
        turn = self.players.index(self.next)
        mark = self.cells[cell] = "XO"[turn]
        if any(all(self.cells[int(at)] == mark for at in line) for line in LINES):
            self.winner, self.next = self.next, 0
        else:
            self.next = self.players[1 - turn] if "." in self.cells else 0

    def forfeit(self) -> None:
        """The player in turn has lost: the clock ran out."""
        self.winner, self.next = self.players[1 - self.players.index(self.next)], 0
