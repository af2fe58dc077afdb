"""The driver of `gatelink conform` around Python's `connect`: docs/conformance.md.

Run: gatelink conform -- python -m examples.conformance.driver
"""

import time

_time = time.time
_offset = 0.0
# before anything is imported that reads the clock, which the kit moves
time.time = lambda: _time() + _offset

# ruff: noqa: E402
import asyncio
import base64
import sys

events, sys.stdout = sys.stdout, sys.stderr  # logs are no events

from contextlib import suppress
from typing import Any

import msgspec

import gatelink
from gatelink import (
    Backoff,
    ConnectError,
    Handlers,
    Limits,
    Refuse,
    RequestFailed,
    Session,
    SessionClosed,
    connect,
)
from gatelink.conformance.messages import (
    Ask,
    Count,
    Everything,
    EverythingJson,
    Fields,
    Raw,
    Told,
    catalog,
)

ECHOED = (Everything, EverythingJson, Fields, Raw)


def say(event: str, **fields: Any) -> None:
    """Write an event."""
    events.buffer.write(msgspec.json.encode({"event": event, **fields}) + b"\n")
    events.buffer.flush()


def as_json(value: Any) -> Any:
    """A message as the contract has it: ints are texts, for JavaScript."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {key: as_json(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [as_json(item) for item in value]
        case int() if not isinstance(value, bool):
            return str(value)
    return value


class Player:
    """One session of the SDK, and what is said of it."""

    def __init__(self, command: dict[str, Any]) -> None:
        self.number: int = command["s"]
        self.tokens: list[str] = command["tokens"]
        self.session: Session | None = None

    async def connect(self, command: dict[str, Any]) -> None:
        handlers = Handlers(catalog)
        handlers.register(self)
        handlers.default(self.message)
        first, most = command["backoff"]
        interval, timeout = command["heartbeat"]
        try:
            self.session = await connect(
                command["address"],
                uid=int(command["uid"]),
                token=self.token,
                handlers=handlers,
                reconnect=Backoff(first=first, most=most, attempts=command["attempts"]),
                catalog=catalog,
                limits=Limits(heartbeat_interval=interval, heartbeat_timeout=timeout),
                server_key=bytes.fromhex(command["server_key"]) or None,
                slot=command["slot"],
                resume=True,
            )
        except ConnectError as error:
            say("closed", s=self.number, code=error.code or 0, reason=str(error))

    def token(self) -> str:
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]

    def on_verified(self, session: Session) -> None:
        say("connected", s=self.number)

    def on_suspended(self, session: Session) -> None:
        say("suspended", s=self.number)

    def on_resumed(self, session: Session) -> None:
        say("resumed", s=self.number)

    def on_closed(self, session: Session) -> None:
        say("closed", s=self.number, code=session.close_code, reason=session.close_reason)

    def on_lost(self, session: Session, lost: gatelink.Lost) -> None:
        say(
            "lost",
            s=self.number,
            type=lost.type,
            to_server=lost.to_server,
            to_client=lost.to_client,
        )

    def on_ask(self, session: Session, ask: Ask) -> Told:
        if ask.number >= 1000:
            raise Refuse(ask.number, "no")
        return Told(ask.number)

    def message(self, session: Session, message: Any) -> None:
        fields = message if isinstance(message, bytes) else msgspec.to_builtins(message)
        say("message", s=self.number, name=type(message).__name__, fields=as_json(fields))
        if isinstance(message, ECHOED):
            session.send(message)

    def send(self, number: int, count: int, text: str) -> None:
        with suppress(SessionClosed):
            for each in range(number, number + count):
                if self.session is not None:
                    self.session.send(Count(each, text))

    async def request(self, n: int, number: int, seconds: float) -> None:
        try:
            if self.session is not None:
                told = await self.session.request(Ask(number), timeout=seconds)
                say("answer", s=self.number, n=n, number=str(told.number))
        except RequestFailed as error:  # codes from 256 on are this side's own
            code = error.code if error.code < 256 else 0
            say(
                "failed",
                s=self.number,
                n=n,
                code=code,
                detail=error.detail,
                reason=error.reason,
            )


async def main() -> None:
    global _offset
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    players: dict[int, Player] = {}
    say(
        "ready",
        sdk=f"gatelink-python {gatelink.__version__}",
        can=["tcp", "ws", "seal", "clock"],
    )
    async with asyncio.TaskGroup() as tasks:  # an error of the driver ends it
        begun: list[asyncio.Task[None]] = []
        while line := await reader.readline():
            command = msgspec.json.decode(line, type=dict[str, Any])
            match command:
                case {"do": "connect", "s": s}:
                    players[s] = Player(command)
                    begun.append(tasks.create_task(players[s].connect(command)))
                case {
                    "do": "send",
                    "s": s,
                    "number": number,
                    "count": count,
                    "text": text,
                }:
                    players[s].send(int(number), count, text)
                case {
                    "do": "request",
                    "s": s,
                    "n": n,
                    "number": number,
                    "timeout": timeout,
                }:
                    begun.append(
                        tasks.create_task(players[s].request(n, int(number), timeout))
                    )
                case {"do": "close", "s": s} if (
                    session := players[s].session
                ) is not None:
                    session.close()
                case {"do": "clock", "seconds": seconds}:
                    _offset += seconds
                case {"do": "reset"}:
                    for task in begun:
                        task.cancel()
                    for player in players.values():
                        if player.session is not None:
                            player.session.abort()
                    players, begun = {}, []
                    say("reset")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
