"""Single keys of a person at a terminal, without Enter and without echo."""

import asyncio
import os
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def is_there() -> bool:
    """Whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call `on_key` in the running loop for each key that is pressed during the block; Ctrl-C stays a signal.

    It is called with "" when the terminal is gone. Without a terminal nothing is called.
    """
    if not is_there():
        yield
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    changed = termios.tcgetattr(file)
    changed[3] &= ~(termios.ICANON | termios.ECHO)
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            pressed = os.read(file, 64)
        except OSError:
            pressed = b""
        if not pressed:  # the terminal is gone
            loop.remove_reader(file)
            on_key("")
        for key in pressed.decode(errors="ignore"):
            on_key(key)

    termios.tcsetattr(file, termios.TCSADRAIN, changed)
    loop.add_reader(file, read)
    try:
        yield
    finally:
        loop.remove_reader(file)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(file, termios.TCSADRAIN, before)
