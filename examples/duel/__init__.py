"""A game for two: invitations, turns with a clock, spectators, rejoin, a leaderboard."""
