"""Finds a live server for the requests of a subject.

NATS alone gives a request to any subscriber, even to one whose machine lost its power or stands still. It notices that
only minutes later, by its pings. So this process first asks all servers of a subject, and sends the request to one that
answered. No request is sent twice.
"""

import asyncio
import random
from functools import partial

from gatelink.cluster.engine import EngineUnavailable, NoResponder
from gatelink.cluster.engines.bucket import Message
from gatelink.cluster.engines.nats_client import NatsConnection

QUESTION = "=who"
"""The word behind a subject for the question which servers live. Permissions for `subject.>` allow it."""

SERVER = "Gatelink-Server"
"""The header of an answer: the subject on which that server alone listens."""

PATIENCE = 0.02
"""Seconds that the server whose turn it is has after the first answer of another one."""


class Servers:
    """The servers of one subject that have answered over one connection.

    subject: that of the question which servers live.
    """

    def __init__(self, connection: NatsConnection, subject: str) -> None:
        self._connection = connection
        self._subject = subject
        self._live: set[str] = set()  # servers that answered when they were asked last
        self._waiting: set[_Choice] = set()
        self._reply = connection.open_reply(self._take)
        connection.when_lost.add(self._lost)

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    def close(self) -> None:
        self._connection.close_reply(self._reply)
        self._connection.when_lost.discard(self._lost)

    async def choose(self) -> str:
        """The subject of one server that answered just now; each has its turn.

        Raises NoResponder, EngineUnavailable.
        """
        choice = _Choice(random.choice(tuple(self._live)) if self._live else "")
        self._waiting.add(choice)
        try:
            await self._connection.send(self._subject, b"", reply=self._reply)
            chosen = await choice.made
        finally:
            self._waiting.discard(choice)
        if choice.wished != chosen:
            self._live.discard(choice.wished)  # it did not answer; its next answer adds it again
        return chosen

    async def _take(self, message: Message) -> None:
        server = message.headers.get(SERVER, "")
        if server:
            self._live.add(server)
        for choice in self._waiting:
            if server:
                choice.offer(server)
            elif message.headers.get("Status") == "503":
                choice.fail(NoResponder(f"{self._subject}: no server answers it"))

    def _lost(self) -> None:
        for choice in self._waiting:
            choice.fail(EngineUnavailable("the connection to NATS was lost"))


class _Choice:
    """One request's choice. wished: the server whose turn it is, "" if any will do."""

    def __init__(self, wished: str) -> None:
        self.wished = wished
        self.made: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._has_offer = False

    def offer(self, server: str) -> None:
        """A server has answered."""
        if self.wished in ("", server):
            self._make(server)
        elif not self._has_offer:
            self._has_offer = True
            asyncio.get_running_loop().call_later(PATIENCE, partial(self._make, server))

    def fail(self, error: Exception) -> None:
        if not self.made.done():
            self.made.set_exception(error)

    def _make(self, server: str) -> None:
        if not self.made.done():
            self.made.set_result(server)
