"""Strict chat robots: they talk, break off, come back, and check each line (check.py).

gatelink robots examples.chat.robots:Chatter
"""

import asyncio

from examples.chat.check import LineCheck
from examples.chat.messages import ROOMS, JoinedRoom, JoinRoom, Leave, Line, Speak
from examples.chat.tokens import SecretTokens
from gatelink import Session
from gatelink.robots import Robot

tokens = SecretTokens()


class Chatter(Robot):
    """Talks every second or so; now and then changes the room, or breaks off."""

    async def run(self) -> None:
        self.check = LineCheck(self.fail)
        self.said = 0
        await self.connect()
        await self.enter(self.random.choice(ROOMS))
        while True:
            await asyncio.sleep(self.random.uniform(0.5, 1.5))
            what = self.random.random()
            if what < 0.05:
                await self.break_off_and_come_back()
            elif what < 0.10:
                await self.change_rooms()
            else:
                await self.talk()

    async def enter(self, room: str) -> None:
        self.room = room
        with self.measure("join"):
            self.send(JoinRoom(room))
            await self.expect(JoinedRoom, lambda joined: joined.room == room)

    async def talk(self) -> None:
        self.said += 1
        text = f"line {self.said} of robot {self.number}"
        with self.measure("say"):
            self.send(Speak(text))
            await self.expect(
                Line, lambda line: line.author == self.uid and line.text == text
            )

    async def change_rooms(self) -> None:
        self.count("changes of room")
        if self.random.random() < 0.5:
            self.send(Leave())
        await self.enter(self.random.choice(ROOMS))

    async def break_off_and_come_back(self) -> None:
        self.count("breaks")
        self.send(Speak("I'll be back"))
        await self.disconnect(abruptly=self.random.random() < 0.5)
        self.check.broke()
        await asyncio.sleep(self.random.uniform(0.2, 1.0))
        await self.connect()
        await self.enter(self.room)

    def on_joined_room(self, session: Session, joined: JoinedRoom) -> None:
        missed = self.check.joined(joined.room, joined.next_number)
        self.count("breaks with a gap", missed > 0)
        self.count("lines missed over breaks", missed)

    def on_line(self, session: Session, line: Line) -> None:
        self.check.line(line.room, line.number)

    def token(self) -> str:
        return tokens.token(self.uid)
