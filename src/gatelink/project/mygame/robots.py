"""Players that talk, and check that each of their lines comes back: `make robots`."""

import asyncio

from gatelink.robots import Robot
from mygame.messages import Said, Say


class Talker(Robot):
    async def run(self) -> None:
        await self.connect()
        number = 0
        while True:
            number += 1
            with self.measure("say"):
                self.send(Say(f"line {number}"))
                said = await self.expect(Said, lambda said: said.uid == self.uid)
            if said.text != f"line {number}":
                self.fail("a line is missing, or came twice")
            await asyncio.sleep(self.random.uniform(0.2, 0.8))
