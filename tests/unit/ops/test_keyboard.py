"""Single keys at a terminal, a real one: whatever comes from it, the next key is read."""

import asyncio
import io
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from fcntl import ioctl
from select import select

import pytest

from gatelink.ops import keyboard


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.FileIO]:
    """The other end of standard input, which is a terminal."""
    master, terminal = pty.openpty()
    with open(terminal) as stdin, io.FileIO(master, "r+") as other:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield other


async def press(person: io.FileIO, keys: bytes) -> None:
    """Press keys, and return once they were read."""
    person.write(keys)
    assert select([sys.stdin], [], [], 5)[0], "they arrive before the loop has a turn"
    async with asyncio.timeout(5):
        while struct.unpack("i", ioctl(sys.stdin.fileno(), termios.FIONREAD, bytes(4)))[0]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)


@pytest.mark.parametrize("broken", [b"\xe9", "é".encode()[:1]])
async def test_a_key_that_is_no_utf_8_is_passed_over_and_the_next_one_is_read(person: io.FileIO, broken: bytes) -> None:
    pressed: asyncio.Queue[str] = asyncio.Queue()
    with keyboard.keys(pressed.put_nowait):
        await press(person, "sé".encode())
        await press(person, broken)
        await press(person, b"q")
        async with asyncio.timeout(5):
            assert [await pressed.get() for _ in range(3)] == ["s", "é", "q"]


async def test_a_terminal_that_goes_away_is_no_fault_at_the_end(person: io.FileIO) -> None:
    with keyboard.keys(lambda key: None):
        person.close()
