"""How a process of ours runs, hears its signals, and ends: in bounded time, whatever its handlers and threads do."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

import structlog
import uvloop

from gatelink.ops import logs

T = TypeVar("T")

log = structlog.get_logger("gatelink.process")

SPARE = 4.5
"""Seconds over the grace that a stop may take: for handlers that are cancelled, `on_stop` and the engine. `gatelink up`
allows 5."""

LEFT = 0.5
"""Seconds that what is left has when all else has ended and the grace is over."""

MOST_NAMED = 20
"""Tasks and threads that one log line names."""

LAST_LINES = 1.0
"""Seconds in which the last lines of the log must be written."""


class _End:
    """Ends the process if it does not end by itself: `os._exit`, after a log line that names what is left.

    One thread, which is started once the end is asked for. A blocked event loop does not hold it up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self._loop = loop
        self._grace_ends = 0.0
        self._deadline = 0.0
        self._changed = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None

    def within(self, grace: float, spare: float) -> None:
        """What was asked to end has `grace` seconds, and then `spare` more. A later call has the last word."""
        self._grace_ends = monotonic() + grace
        self._set(self._grace_ends + spare)

    def begins(self) -> None:
        """The command's own work is over; its tasks and threads have what is left of the grace, and a moment."""
        self._set(max(self._grace_ends, monotonic()) + LEFT)

    def over(self) -> None:
        """The loop is closed: only the interpreter's end is left to watch, which waits for threads."""
        self._is_over = True

    def _set(self, deadline: float) -> None:
        self._deadline = deadline
        self._changed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="end of the process", daemon=True)
            self._thread.start()

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
        flushing = threading.Thread(target=_flush_output, daemon=True)
        flushing.start()
        flushing.join(LAST_LINES)
        logs.flush(LAST_LINES)
        os._exit(self.status)


_end: _End | None = None


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a uvloop of its own, as `asyncio.run` does. Its end is bounded, and SIGHUP does not kill it.

    When `main` has ended, tasks are cancelled, and they and threads have until the grace of `stop_within` is over, at
    least 0.5 s. Then the log names what is left and the process ends: with status 0, or if `main` raised with 1 or the
    status of its `typer.Exit` or SystemExit.
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
    """The process was told to end: it must have ended in `grace` and `spare` seconds. Only within `run`."""
    if _end is not None:
        _end.within(grace, spare)


def ends_with(status: int) -> None:
    """The exit status of a process that does not end by itself any more."""
    if _end is not None:
        _end.status = status


def prepare() -> None:
    """Before a server's process does anything else: SIGHUP kills nothing from now on; it means "read your files again".

    The numbers of standard input, output and error that were closed are taken: a socket must not get what is written
    there, and uvloop aborts when it closes one of them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def signals(calls: Mapping[signal.Signals, Callable[[], None]], gather_all: Callable[[], None]) -> Iterator[None]:
    """In the block, a signal calls its function in the running loop.

    gather_all: called for SIGTERM and SIGINT in the signal handler itself, also while a handler blocks the loop.
    """
    loop = asyncio.get_running_loop()

    def hear(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            gather_all()
        loop.call_soon_threadsafe(calls[signal.Signals(number)])

    before = {number: signal.signal(number, hear) for number in calls}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    log.error("an error that nobody can catch", where=what.err_msg or "", exc_info=what.exc_value)


def _thread_failed(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is not SystemExit:
        log.error("a thread failed", thread=what.thread.name if what.thread else "", exc_info=what.exc_value)


def _status_of(error: BaseException) -> int:
    import typer  # here: a server in a program of somebody else's needs no command line

    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 1


def _flush_output() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()


def _interpreter_waits() -> bool:
    """Whether the main thread is done, and the interpreter waits for other threads to end."""
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
