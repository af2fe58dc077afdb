"""The driver's process: commands in, events out, and what becomes of a driver that misbehaves."""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from gatelink.conformance.contract import MAX_LINE, Command, Event, Ready, decode_event, encode_command

READY_SECONDS = 60.0
"""A driver may have to start a browser first."""

END_SECONDS = 2.0
"""From the end of the driver's standard input to the end of the driver; then it is killed."""

EXIT_SECONDS = 2.0
"""From the end of the driver's standard output to its exit, and from its exit to the end of its other streams."""

MAX_UNREAD = 8 * 1_048_576
"""Bytes of commands that a driver has not read. More waits only in a step with thousands of messages."""

TAIL = 2_048
"""Bytes that are kept of the driver's standard error, to be shown."""


class DriverFailed(Exception):
    """The driver does not start, or says no `ready`."""


class Driver:
    """One run of the driver's command.

    on_event: gets each event, as it comes. on_end: called once, with the reason in words, when no more events will
    come. Both may be set at any time.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_end: Callable[[str], None] = lambda why: None
        self.ready = Ready("")
        self.sessions = 0  # that it was told of; their numbers are never used again
        self.end: str | None = None  # why it is of no use any more
        self._process = process
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._is_ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._read_events()), asyncio.create_task(self._read_errors())]

    @classmethod
    async def start(cls, command: Sequence[str], seconds: float = READY_SECONDS) -> "Driver":
        """A driver that is ready. Raises DriverFailed."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LINE, start_new_session=True
            )
        except (OSError, ValueError) as error:
            raise DriverFailed(f"{command[0]}: {error}") from None
        driver = cls(process)
        try:
            async with asyncio.timeout(seconds):
                driver.ready = await driver._is_ready
        except (TimeoutError, DriverFailed) as error:
            await driver.stop()
            why = str(error) or f"no `ready` within {seconds:g} s"
            raise DriverFailed(why + driver.words()) from None
        except BaseException:
            await driver.stop()
            raise
        return driver

    def tell(self, command: Command) -> None:
        """Write a command. Ends the driver if it reads none."""
        assert self._process.stdin is not None
        if self.end is None and not self._process.stdin.is_closing():
            self._process.stdin.write(encode_command(command))
            if self._process.stdin.transport.get_write_buffer_size() > MAX_UNREAD:
                self.give_up(f"the driver does not read its commands; {MAX_UNREAD} bytes wait")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the driver and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def stop(self) -> None:
        """End the driver, by the end of its standard input if it obeys, and all that it started."""
        assert self._process.stdin is not None
        if self.end is None:
            self.end = "stopped"
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._process.wait()
        self.signal(signal.SIGKILL)
        await self._process.wait()
        self._process.stdin.close()
        with contextlib.suppress(OSError):  # a broken pipe: Python 3.11.2 reports it later, if nobody asks
            await self._process.stdin.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(TimeoutError):  # a process that left the group may hold it open
                async with asyncio.timeout(EXIT_SECONDS):
                    while await stream.read(MAX_LINE):  # to its end, which closes it
                        pass

    def words(self) -> str:
        """The end of its standard error, for a report; "" if it said nothing."""
        text = b"".join(self._tail)[-TAIL:].decode("utf-8", "replace").strip()
        return f"\nits standard error ends:\n{text}" if text else ""

    async def _read_events(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                event = decode_event(line)
                if isinstance(event, Ready) and not self._is_ready.done():
                    self._is_ready.set_result(event)
                else:
                    self.on_event(event)
        except msgspec.DecodeError as error:
            self.give_up(f"the driver wrote no event: {line[:80]!r} ({error})")
        except ValueError:
            self.give_up(f"the driver wrote a line of more than {MAX_LINE} bytes")
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_SECONDS):
                    await self._process.wait()
            status = self._process.returncode
            is_there = "closed its standard output" if status is None else f"ended with status {status}"
            self.give_up(f"the driver {is_there}")

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(TAIL):
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail_size - len(self._tail[0]) > TAIL:
                self._tail_size -= len(self._tail.popleft())

    def give_up(self, why: str) -> None:
        """Kill the driver: it is of no use any more."""
        if self.end is None:
            self.end = why
            self.signal(signal.SIGKILL)
            if not self._is_ready.done():
                self._is_ready.set_exception(DriverFailed(why))
            self.on_end(why)
