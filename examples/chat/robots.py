"""Strict chat robots: they join, talk, break off and come back, and check every line's number (see check.py).

gatelink robots examples.chat.robots:Chatter --address tcp://127.0.0.1:7000
"""

import asyncio
from time import perf_counter

from gatelink import Session
from gatelink.robots import Robot

from examples.chat.check import LineCheck
from examples.chat.messages import Join, Joined, Leave, Line, Say
from examples.chat.server import ROOMS
from examples.chat.tokens import SecretTokens

tokens = SecretTokens()


class Chatter(Robot):
    """Talks every second or so; now and then changes rooms, or breaks off and comes back."""

    def token(self) -> str:
        return tokens.token(self.uid)
