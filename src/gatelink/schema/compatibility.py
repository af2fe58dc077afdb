"""Which changes of messages break programs that have the older messages (docs/messages.md has the rules as a table).

A change is compatible if the new program reads what the old one writes, and the old one what the new one writes.
`Reading` answers that for two types.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from gatelink.schema.nodes import Message, RefNode, Schema, StructDef, parts
from gatelink.schema.reading import Reading, family

Side = Literal["old", "new"]


@dataclass(frozen=True, slots=True)
class Break:
    """A change that breaks something.

    message: its wire name. id: its id. place: the field, as `at.x[...]`; "" for the message itself.
    writer: the side whose bodies are not read, or are read as something else, by the other side. text: the change.
    """

    message: str
    id: int
    place: str
    writer: Side
    text: str

    def __str__(self) -> str:
        reader = "new" if self.writer == "old" else "old"
        place = f"{self.message}.{self.place}" if self.place else self.message
        return f"{place} ({self.id}), {self.writer} sender, {reader} receiver: {self.text}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two schemas side by side: their messages, by wire name. changed: those that differ and break nothing."""

    breaks: list[Break]
    added: list[str]
    changed: list[str]
    same: list[str]


def compare(old: Schema, new: Schema) -> Comparison:
    """What `new` changes, and which changes break programs with either schema while both are in use."""
    before = {message.id: message for message in old.messages}
    after = {message.id: message for message in new.messages}
    found = Comparison([], [message.name for message in new.messages if message.id not in before], [], [])
    for id, message in before.items():
        if id not in after:
            found.breaks.append(Break(message.name, id, "", "old", "the receiver does not have this message"))
            continue
        breaks = list(_message_breaks(old, message, new, after[id]))
        if breaks:
            found.breaks.extend(breaks)
        elif message == after[id] and _closure(old, message.type) == _closure(new, after[id].type):
            found.same.append(message.name)
        else:
            found.changed.append(message.name)
    return found


def _closure(schema: Schema, name: str) -> dict[str, bytes]:
    """The definition of `name` and of all that it refers to, as JSON: types are equal if their closures are."""
    found: dict[str, bytes] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        definition = schema.types[name]
        found[name] = msgspec.json.encode(definition)
        if isinstance(definition, StructDef):
            waiting += [
                node.name for field in definition.fields for node in parts(field.type) if isinstance(node, RefNode)
            ]
    return found


def _message_breaks(old: Schema, before: Message, new: Schema, after: Message) -> Iterator[Break]:
    def broken(text: str, writer: Side, place: str = "") -> Break:
        return Break(before.name, before.id, place, writer, text)

    if family(before.codec) != family(after.codec):
        text = f"codec {before.codec} became {after.codec}"
        yield broken(text, "old")
        yield broken(text, "new")
        return
    if before.answer != after.answer:
        was, now = _request(before), _request(after)
        yield broken(f"{was} became {now}", "old" if before.answer is not None else "new")
    if after.rate is not None and (before.rate is None or after.rate < before.rate):
        was = "no rate" if before.rate is None else f"rate {before.rate:g}"
        yield broken(f"{was} became rate {after.rate:g}, and messages over it are dropped", "old")
    sides: list[tuple[Side, Reading]] = [
        ("old", Reading(old, new, after.codec)),
        ("new", Reading(new, old, before.codec)),
    ]
    for side, reading in sides:
        writer, reader = (before, after) if side == "old" else (after, before)
        for problem in reading.message(writer.type, reader.type):
            yield broken(problem.text, side, problem.place)


def _request(message: Message) -> str:
    return "no request" if message.answer is None else f"a request answered by {message.answer}"
