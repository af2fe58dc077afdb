"""The way of log lines: a bounded queue, and a thread that writes them.

A log that is not read, a closed pipe or a full disk must not block or fail the code that logs. Lines that can't be
queued or written are dropped and counted. The next line that can be written follows a line with the number of dropped
ones.
"""

import os
import select
import stat
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TextIO

MAX_WAITING = 1_048_576
"""Bytes of waiting lines, with LINE_COST for each."""

LINE_COST = 100
"""Bytes of memory, about, that a waiting line takes beside its text."""

STDERR = 2


class LogWriter:
    """Writes lines to streams. `dropped`: lines that were not written, since the process started.

    missing: makes the line that reports a number of dropped lines.
    """

    def __init__(self) -> None:
        self.missing: Callable[[int], str] = "{} log lines were dropped before this one".format
        self.dropped = 0
        self._refused = 0  # dropped because the queue was full, and not yet reported
        self._failed = 0  # dropped because the write failed, and not yet reported; only the thread uses it
        self._waiting = 0
        self._counting = threading.RLock()  # reentrant: a finalizer that runs inside `write` may log
        self._starting = threading.Lock()  # never waited for
        self._lines: SimpleQueue[tuple[TextIO, str, int] | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_torn = False

    def write(self, stream: TextIO | None, line: str) -> None:
        """Queue a line, without its newline. Never waits, never raises. stream: None if it is closed, as by 2>&-."""
        size = len(line) + LINE_COST
        runs = self._runs()
        with self._counting:
            if stream is None or self._waiting + size > MAX_WAITING or not runs:
                self.dropped += 1
                self._refused += 1
                return
            self._waiting += size
            missing, self._refused = self._refused, 0
        self._lines.put((stream, line, missing))

    def flush(self, seconds: float) -> bool:
        """Wait up to `seconds` until all queued lines have been written or dropped. Returns whether they were."""
        if not self._waiting or not self._runs():
            return True
        written = threading.Event()
        self._lines.put(written)
        return written.wait(seconds)

    def _runs(self) -> bool:
        """Start the thread if it does not run. Returns whether it runs, or is being started by another call.

        No lock is held that another call waits for: a finalizer may run and log in the thread that is being started.
        """
        if self._thread is not None and self._thread.is_alive():
            return True
        if not self._starting.acquire(blocking=False):
            return True
        try:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # the system has no more threads, or the interpreter ends
            return False
        finally:
            self._starting.release()
        return True

    def _run(self) -> None:
        stream: TextIO | None = None
        while True:
            entry = self._lines.get()
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                stream, line, missing = entry
                self._report(stream, missing)
                is_written = not self._failed and self._put(stream, line)
                with self._counting:
                    self._waiting -= len(line) + LINE_COST
                    if not is_written:
                        self._failed += 1
                        self.dropped += 1
            if stream is not None and self._lines.empty():
                with self._counting:
                    missing, self._refused = self._refused, 0
                if missing:
                    self._report(stream, missing)

    def _report(self, stream: TextIO, missing: int) -> None:
        """Write the number of dropped lines, with those whose write failed."""
        missing += self._failed
        if missing:
            self._failed = 0 if self._put(stream, self.missing(missing)) else missing

    def _put(self, stream: TextIO, line: str) -> bool:
        """Write a line. Returns whether that succeeded."""
        try:
            try:
                file = stream.fileno()
            except (AttributeError, OSError):  # no file: a test's stream
                stream.write(f"{line}\n")
                stream.flush()
                return True
            # os.write, because the stream would hold its lock while it waits, and the interpreter needs that to end.
            left = f"{line}\n".encode(errors="backslashreplace")
            if self._is_torn:
                left = b"\n" + left
            while left:
                try:
                    written = os.write(file, left)
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(file, select.POLLOUT)
                    poll.poll()
                    continue
                left = left[written:]
                self._is_torn = bool(left)
        except Exception:  # a closed pipe, a full disk, or a broken stream; there is no place to report it
            return False
        return True


class LogFile:
    """The file of standard error. After it has been moved, `reopen` makes a new one under its name."""

    def __init__(self) -> None:
        self.path: str | None = None
        try:
            if stat.S_ISREG(os.fstat(STDERR).st_mode):
                path = os.readlink(f"/proc/self/fd/{STDERR}")
                self.path = path if os.path.exists(path) else None  # else it has been deleted
        except OSError:
            pass  # there is no standard error

    def reopen(self) -> bool:
        """Append to a file of that name from now on; standard output too, if it was the same file.

        Returns False if standard error is no file. Raises OSError.
        """
        if self.path is None:
            return False
        new = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            is_same = os.path.sameopenfile(1, STDERR)
            os.dup2(new, STDERR)
            if is_same:
                os.dup2(new, 1)
        finally:
            os.close(new)
        return True
