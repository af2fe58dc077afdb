"""How a gatelink process runs, receives signals, and ends in bounded time, whatever its handlers and threads do."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

import uvloop

from gatelink.logger import Logger
from gatelink.ops import logs

T = TypeVar("T")

log = Logger("gatelink.process")

SPARE = 4.5
"""Seconds that a stop may take beyond its grace: for cancelled handlers, `on_stop` and the engine. `gatelink up` allows
5."""

LEFT = 0.5
"""Seconds that remaining tasks and threads have, once the command's work and the grace are over."""

MOST_NAMED = 20
"""Tasks and threads that one log line names."""

LAST_LINES = 1.0
"""Seconds in which the last lines of the log must be written."""

OTHER_FILES = 64
"""Files that a process has open besides its connections."""


class _End:
    """Ends the process with `os._exit` if it does not end by itself. A log line before names what is still running.

    It watches in a thread of its own, so a blocked event loop does not delay it. The thread starts with the first
    deadline.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self._loop = loop
        self._grace_ends = 0.0
        self._deadline = 0.0
        self._changed = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None
        self._is_last = threading.Event()
        self._flushing = threading.Thread(target=self._flush, name="last output", daemon=True)

    def within(self, grace: float, spare: float) -> None:
        """The process must end in `grace` seconds and `spare` more. The latest call counts."""
        self._grace_ends = monotonic() + grace
        self._set(self._grace_ends + spare)

    def begins(self) -> None:
        """The command's own work is over. Its tasks and threads have the rest of the grace, and LEFT."""
        self._set(max(self._grace_ends, monotonic()) + LEFT)

    def over(self) -> None:
        """The loop is closed. Only the interpreter's end is left to watch, which waits for threads."""
        self._is_over = True

    def _set(self, deadline: float) -> None:
        self._deadline = deadline
        self._changed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="end of the process", daemon=True)
            self._thread.start()
            self._flushing.start()  # now: while the interpreter ends, no thread can be started

    def _flush(self) -> None:
        """Wait until the process is about to end, and flush what it has printed. That may take for ever."""
        self._is_last.wait()
        _flush_output()

    def _watch(self) -> None:
        stuck = 0
        while True:
            self._changed.clear()
            left = self._deadline - monotonic()
            if left > 0:
                self._changed.wait(left)
                continue
            if not self._is_over:
                break
            stuck = stuck + 1 if _interpreter_waits() else 0
            if stuck * LEFT / 5 >= LEFT:
                break
            self._changed.wait(LEFT / 5)
        tasks = [] if self._is_over else sorted(map(_task_name, asyncio.all_tasks(self._loop)))
        threads = sorted(_thread_names(with_main=not self._is_over))
        log.error(
            "the process ends although this has not ended",
            tasks=tasks[:MOST_NAMED],
            threads=threads[:MOST_NAMED],
            more=max(0, len(tasks) - MOST_NAMED) + max(0, len(threads) - MOST_NAMED),
        )
        self._is_last.set()
        self._flushing.join(LAST_LINES)
        logs.flush(LAST_LINES)
        os._exit(self.status)


_end: _End | None = None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a uvloop of its own, as `asyncio.run` does. Its end is bounded, and SIGHUP does not kill it.

    When `main` has ended, tasks are cancelled. Tasks and threads then have the rest of `stop_within`'s grace, at least
    0.5 s. After that the log names those that still run, and the process ends. Its status is 0; if `main` raised, it is
    1 or the status of the `typer.Exit` or SystemExit.
    """
    global _end
    prepare()
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _thread_failed
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            _end = end = _End(runner.get_loop())
            try:
                return runner.run(main)
            except BaseException as error:
                end.status = _status_of(error)
                raise
            finally:
                end.begins()
    finally:
        if _end is not None:
            _end.over()


def stop_within(grace: float, spare: float = SPARE) -> None:
    """The process got the signal to end, and has `grace` and `spare` seconds for it. Only within `run`."""
    if _end is not None:
        _end.within(grace, spare)


def ends_with(status: int) -> None:
    """Set the exit status for a process that does not end by itself."""
    if _end is not None:
        _end.status = status


def prepare() -> None:
    """Prepare a server's process, before it does anything else.

    SIGHUP means "read your files again", so it no longer kills. Closed standard descriptors are opened on /dev/null: a
    socket must not get their number, and uvloop aborts when it closes one of them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def signals(calls: Mapping[signal.Signals, Callable[[], None]], at_once: Callable[[], None]) -> Iterator[None]:
    """Call a function in the running loop for each signal, within the block.

    at_once: called for SIGTERM and SIGINT in the signal handler itself, also while a handler blocks the loop.
    """
    loop = asyncio.get_running_loop()

    def receive(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            at_once()
        loop.call_soon_threadsafe(calls[signal.Signals(number)])

    before = {number: signal.signal(number, receive) for number in calls}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def allow_files(connections: int) -> tuple[int, int]:
    """Raise the soft limit of open files, up to the hard limit, so that this many connections fit.

    Returns the files needed for that, and the files allowed now.
    """
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed, needed
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return needed, allowed


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    log.error("an error that no code can catch", where=what.err_msg or "", exc_info=what.exc_value)


def _thread_failed(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is not SystemExit:
        log.error("a thread failed", thread=what.thread.name if what.thread else "", exc_info=what.exc_value)


def _status_of(error: BaseException) -> int:
    import typer  # keeps it out of programs that run a server without the command line

    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def _flush_output() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _interpreter_waits() -> bool:
    """Whether the main thread has ended, and the interpreter waits for other threads."""
    main = threading.main_thread()
    if not main.is_alive():
        return True
    frame = sys._current_frames().get(main.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "_shutdown" and frame.f_globals.get("__name__") == "threading":
            return True
        frame = frame.f_back
    return False


def _task_name(task: asyncio.Task[Any]) -> str:
    name = getattr(task.get_coro(), "__qualname__", task.get_name())
    stack = task.get_stack(limit=1)
    return f"{name} at {_place(stack[-1])}" if stack else name


def _thread_names(with_main: bool) -> Iterator[str]:
    frames = sys._current_frames()
    for thread in threading.enumerate():
        if thread.daemon or (thread is threading.main_thread() and not with_main):
            continue
        frame = frames.get(thread.ident or 0)
        yield f"{thread.name} at {_place(frame)}" if frame is not None else thread.name


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
