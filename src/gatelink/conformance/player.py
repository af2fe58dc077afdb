"""A player: one session of the driver, as the driver reports it."""

from typing import Any

import msgspec

from gatelink.conformance import contract
from gatelink.conformance.connection import ScriptedConnection
from gatelink.conformance.judge import Judge
from gatelink.conformance.session import ScriptedSession

MAX_EVENTS = 1_000
"""Events that a player keeps; no step waits for as many."""


class Player:
    """One session of the driver.

    session: the server's side of it, once the login is verified.
    sent: how many `Count` the driver was told to send. delivered: how many it has reported.
    connected, suspended, resumed, restarted: how many such events it reported.
    closed: how the session ended; None while it goes on. messages: all but `Count`. losses: the events `lost`.
    replies: the answers and failures of its requests, by their `n`.
    """

    def __init__(self, number: int, uid: int, judge: Judge) -> None:
        self.number = number
        self.uid = uid
        self.session: ScriptedSession | None = None
        self.sent = 0
        self.delivered = 0
        self.connected = self.suspended = self.resumed = self.restarted = 0
        self.closed: contract.Closed | None = None
        self.messages: list[contract.Message] = []
        self.replies: dict[int, contract.Answer | contract.Failed] = {}
        self.losses: list[contract.Lost] = []
        self._judge = judge

    @property
    def scripted(self) -> ScriptedSession:
        """The server's side, after the login."""
        assert self.session is not None
        return self.session

    @property
    def connection(self) -> ScriptedConnection:
        """The server's side of its connection, while there is one."""
        connection = self.scripted.connection
        assert connection is not None
        return connection

    def take(self, event: contract.SessionEvent) -> None:
        """Note an event of this session, and blame one that can't come now."""
        if self.closed is not None:
            self._judge.blame(f"session {self.number} is closed, and then the driver wrote: {_words(event)}")
        match event:
            case contract.Connected():
                self.connected += 1
                if self.connected > 1:
                    self._judge.blame(f"session {self.number} said `connected` twice")
            case contract.Suspended():
                self.suspended += 1
            case contract.Resumed():
                self.resumed += 1
            case contract.Restarted():
                self.restarted += 1
            case contract.Closed():
                self.closed = event
            case contract.Message(name="Count"):
                self._count(event)
            case contract.Message():
                self._keep(self.messages, event)
            case contract.Lost():
                self._keep(self.losses, event)
            case contract.Answer() | contract.Failed():
                if event.n in self.replies:
                    self._judge.blame(f"request {event.n} had two outcomes: {_words(event)}")
                self.replies[event.n] = event

    def _count(self, event: contract.Message) -> None:
        number = event.fields.get("number") if isinstance(event.fields, dict) else None
        due = self.delivered
        if str(number) == str(due):
            self.delivered += 1
            return
        self._judge.blame(f"session {self.number} got Count {number!r}, and {due} was due")
        if isinstance(number, str) and number.isdecimal():
            self.delivered = int(number) + 1

    def _keep(self, events: list[Any], event: contract.SessionEvent) -> None:
        if len(events) >= MAX_EVENTS:
            self._judge.give_up(f"the driver floods: more than {MAX_EVENTS} events that nothing caused")
        else:
            events.append(event)


def _words(event: contract.SessionEvent) -> str:
    return msgspec.json.encode(event).decode()[:200]
