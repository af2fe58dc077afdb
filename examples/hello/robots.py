"""A load test in ten lines: each robot says hello ten times and checks the answer.

gatelink robots examples.hello.robots:Greeter --count 50 --seconds 10
"""

from examples.hello.server import Hello
from gatelink.robots import Robot


class Greeter(Robot):
    async def run(self) -> None:
        await self.connect()
        for _ in range(10):
            with self.measure("hello"):
                self.send(Hello("hello"))
                answer = await self.expect(Hello)
            if answer.text != f"hello, {self.uid}!":
                self.fail(f"got {answer.text!r}, expected hello, {self.uid}!")
