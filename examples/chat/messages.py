"""What chat clients and the chat server say to each other."""

from typing import Annotated

from msgspec import Meta, Struct

from gatelink import message

ROOMS = (
    "amber",
    "beryl",
    "coral",
    "diamond",
    "emerald",
    "flint",
    "garnet",
    "jade",
    "onyx",
    "pearl",
)

Text = Annotated[str, Meta(max_length=500)]


@message(12001)
class JoinRoom(Struct):
    """Into a room, and out of the one before."""

    room: str


@message(12002)
class JoinedRoom(Struct):
    """You are in. The next line of `room` will have `next_number`."""

    room: str
    next_number: int


@message(12003)
class Leave(Struct):
    """Out of the room."""


@message(12004)
class Speak(Struct):
    text: Text


@message(12005)
class Line(Struct):
    """What somebody said in your room. In each room numbers grow by one from 1."""

    room: str
    number: int
    author: int
    text: str
