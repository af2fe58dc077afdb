"""Messages: every type and every form, whole and in order, however their bytes arrive."""

from collections.abc import Sequence
from typing import Any

from gatelink.config import WireOptions
from gatelink.conformance.bench import Bench
from gatelink.conformance.contract import differences
from gatelink.conformance.judge import Unmet
from gatelink.conformance.messages import TEXTS, UNKNOWN_ID, Everything, EverythingJson, Raw, catalog, layouts, samples
from gatelink.conformance.step import step
from gatelink.testing.faults import Split
from gatelink.wire.base import HEARTBEAT
from gatelink.wire.body import Scrambler, compress
from gatelink.wire.frames import COMPRESSED, SCRAMBLED, encode_frame


async def _there_and_back(bench: Bench, messages: Sequence[Any]) -> None:
    """The client gets each message with its values, and sends it back as it came."""
    player = await bench.login()
    for message in messages:
        player.scripted.send(message)
    count = len(messages)
    await bench.until(lambda: len(player.messages) >= count, f"{count} events `message`")
    await bench.until(lambda: len(player.scripted.others) >= count, f"{count} messages back")
    for message, event, back in zip(messages, player.messages, player.scripted.others, strict=True):
        name = type(message).__name__
        if event.name != name:
            raise Unmet(f"the driver got {event.name}, not {name}")
        for difference in differences(message, event.fields, name):
            raise Unmet(f"the driver got {difference}")
        if back != message:
            raise Unmet(f"the client sent back {_first_difference(message, back)}")


def _first_difference(message: Any, back: Any) -> str:
    if type(message) is not type(back):
        return f"{type(back).__name__}, not {type(message).__name__}"
    for name in getattr(message, "__struct_fields__", ()):
        if getattr(message, name) != getattr(back, name):
            return f"{name} {getattr(back, name)!r}, not {getattr(message, name)!r}"
    return f"{back!r}, not {message!r}"


@step()
async def types_msgpack(bench: Bench) -> None:
    """Every type of field in MessagePack has its value at the client, and is sent as it was received."""
    await _there_and_back(bench, samples(Everything))


@step()
async def types_json(bench: Bench) -> None:
    """The same in JSON; a u64 there passes through no double."""
    await _there_and_back(bench, samples(EverythingJson))


@step()
async def types_binary(bench: Bench) -> None:
    """Numbers of every width, text and bytes in the binary layout."""
    await _there_and_back(bench, layouts())


@step()
async def types_raw(bench: Bench) -> None:
    """Raw bodies, the empty one too."""
    await _there_and_back(bench, [Raw(b""), Raw(b"\0"), Raw(bytes(range(256)) * 8)])


@step()
async def forms(bench: Bench) -> None:
    """The client reads compressed and scrambled bodies, and both at once."""
    player = await bench.login()
    messages = samples(Everything)[:3]
    scrambler = Scrambler(WireOptions().scramble_key)
    for message in messages:
        kind, body = catalog.encode(message)
        for flags in (COMPRESSED, SCRAMBLED, COMPRESSED | SCRAMBLED):
            formed = compress(body) if flags & COMPRESSED else body
            formed = scrambler.scramble(formed) if flags & SCRAMBLED else formed
            player.scripted.send_frame(encode_frame(kind.id, formed, flags))
    due = 3 * len(messages)
    await bench.until(lambda: len(player.messages) >= due, f"{due} events `message`")
    for index, event in enumerate(player.messages):
        for difference in differences(messages[index // 3], event.fields, "Everything"):
            raise Unmet(f"form {1 + index % 3}: the driver got {difference}")
    await bench.exchange(player)


@step()
async def texts(bench: Bench) -> None:
    """Texts of any script arrive as they are, both ways."""
    player = await bench.login()
    for text in TEXTS:
        await bench.exchange(player, count=1, text=text)


@step()
async def large(bench: Bench) -> None:
    """A message of 60,000 bytes, between small ones."""
    player = await bench.login()
    for size in (1, 60_000, 1):
        await bench.exchange(player, count=1, text="x" * size)


@step()
async def pieces(bench: Bench) -> None:
    """Bytes that arrive one by one, or three by three, make the same messages."""
    bench.faults = lambda number: [Split(size=1 if number == 1 else 3)]
    for _ in range(2):
        player = await bench.login()
        await bench.exchange(player, count=10, text="piece by piece")


@step()
async def many(bench: Bench) -> None:
    """Two thousand messages each way arrive once and in order."""
    player = await bench.login()
    await bench.exchange(player, count=2_000)


@step()
async def unknown_message(bench: Bench) -> None:
    """A message whose id the client does not know is dropped, and counted as received."""
    player = await bench.login()
    player.scripted.send_frame(encode_frame(UNKNOWN_ID, b"of a newer server"))
    await bench.exchange(player)
    player.connection.abort()
    await bench.resume(player)  # RESUME has the count
    if player.scripted.acknowledged < len(player.scripted.sent):
        raise Unmet(
            f"the client counts {player.scripted.acknowledged} of {len(player.scripted.sent)} messages: "
            "one whose id it does not know counts, too"
        )
    await bench.exchange(player)


@step()
async def heartbeat_message(bench: Bench) -> None:
    """HeartBeat is ignored where PING is agreed on, and counts as no message."""
    player = await bench.login()
    player.connection.write(encode_frame(HEARTBEAT, b""))
    await bench.exchange(player)
    player.connection.abort()
    await bench.resume(player)
    await bench.exchange(player)
