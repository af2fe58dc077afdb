"""A log that can't be written holds nobody up and fails nothing; what is missing in it is counted and told."""

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from io import StringIO
from typing import TextIO

import pytest
import structlog

from gatelink.ops import log_writer, logs
from gatelink.ops.log_writer import LogWriter

LONG = 30
"""Seconds that nothing here takes, unless it is broken."""


class Moody(StringIO):
    """A stream that raises while `error` is set."""

    error: BaseException | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full"), ValueError("closed"), TypeError()])
def test_lines_that_fail_are_counted_and_the_next_that_does_not_says_how_many(error: Exception) -> None:
    writer, stream = LogWriter(), Moody()
    writer.write(stream, "one")
    assert writer.flush(LONG)
    stream.error = error
    for line in ("two", "three"):
        writer.write(stream, line)
    assert writer.flush(LONG)
    assert writer.dropped == 2
    stream.error = None
    for line in ("four", "five"):
        writer.write(stream, line)
    assert writer.flush(LONG)
    assert stream.getvalue().splitlines() == ["one", "2 log lines were dropped before this one", "four", "five"]
    assert writer.dropped == 2


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """(reading end, what is written to)"""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
        if reading >= 0:
            with open(reading, "rb"):
                pass


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_pipe_that_nobody_reads_holds_nobody_up(pipe: tuple[int, TextIO], is_blocking: bool) -> None:
    reading, stream = pipe
    os.set_blocking(stream.fileno(), is_blocking)
    writer = LogWriter()
    line, many = "x" * 1_000, 5_000
    for _ in range(many):
        writer.write(stream, line)
    assert 0 < writer.dropped < many
    assert not writer.flush(0.01)
    whole = missing = 0
    with open(os.dup(reading)) as reader:
        while whole + missing < many:
            found = reader.readline().rstrip("\n")
            if found == line:
                whole += 1
            else:
                count, _, text = found.partition(" ")
                assert text == "log lines were dropped before this one"
                missing += int(count)
        writer.write(stream, "news")
        assert reader.readline() == "news\n"
    assert missing == writer.dropped


@pytest.mark.parametrize("line", ["", "x" * 100_000], ids=["short", "long"])
def test_what_waits_is_bounded_for_short_and_for_long_lines(line: str) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4_096))
        writer = LogWriter()
        for _ in range(30_000):
            writer.write(stream, line)
        assert 30_000 - writer.dropped <= log_writer.MAX_WAITING // (len(line) + log_writer.LINE_COST) + 1
        os.close(reading)
        assert writer.flush(LONG), "its thread writes no more, where another file may get the descriptor"


def test_a_pipe_whose_reader_is_gone_fails_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        os.close(reading)
        writer = LogWriter()
        writer.write(stream, "news")
        assert writer.flush(LONG)
        assert writer.dropped == 1


def test_a_full_disk_fails_nothing() -> None:
    with open("/dev/full", "w") as stream:
        writer = LogWriter()
        writer.write(stream, "news")
        assert writer.flush(LONG)
        assert writer.dropped == 1


def test_a_stream_that_was_closed_or_never_there_fails_nothing() -> None:
    writer = LogWriter()
    stream = open(os.devnull, "w")  # noqa: SIM115
    stream.close()
    writer.write(stream, "news")
    writer.write(None, "news")
    assert writer.flush(LONG)
    assert writer.dropped == 2


def test_text_that_has_no_utf_8_is_written_all_the_same(pipe: tuple[int, TextIO]) -> None:
    writer = LogWriter()
    writer.write(pipe[1], "\udcff")
    assert writer.flush(LONG)
    assert os.read(pipe[0], 100) == b"\\udcff\n"


class Chatty:
    """Logs when it is collected, as an object of an application may in the middle of anything."""

    def __init__(self, writer: LogWriter, stream: TextIO) -> None:
        self.cycle = self
        self._writer, self._stream = writer, stream

    def __del__(self) -> None:
        self._writer.write(self._stream, "collected")


def test_a_finalizer_may_log_in_the_middle_of_a_line() -> None:
    writer, stream = LogWriter(), StringIO()
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Chatty(writer, stream)
            writer.write(stream, "news")
    finally:
        gc.set_threshold(*before)
    until = time.monotonic() + LONG
    while len(stream.getvalue().splitlines()) < 400 and time.monotonic() < until:
        gc.collect()  # returns at once while the writer's thread collects
        assert writer.flush(LONG)
    assert sorted(stream.getvalue().splitlines()) == ["collected"] * 200 + ["news"] * 200


def test_another_thread_may_log_while_the_writers_own_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a finalizer does that runs in the new thread, before `Thread.start` returns."""
    writer, stream = LogWriter(), StringIO()
    plain = threading.Thread
    blocked: list[bool] = []

    class Starting(threading.Thread):
        def start(self) -> None:
            other = plain(target=writer.write, args=(stream, "other"), daemon=True)
            other.start()
            other.join(LONG)
            blocked.append(other.is_alive())
            super().start()

    monkeypatch.setattr("gatelink.ops.log_writer.threading.Thread", Starting)
    writer.write(stream, "news")
    assert writer.flush(LONG)
    assert blocked == [False]
    assert stream.getvalue() == "other\nnews\n" and not writer.dropped


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_value_that_cannot_be_shown_costs_the_values_and_not_the_caller(
    format: logs.Format, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(format)
    structlog.get_logger("gatelink.test").error("failed", what=Unshowable())
    assert logs.flush(LONG)
    line = capsys.readouterr().err
    assert "failed" in line and "RuntimeError" in line


def test_the_line_that_tells_of_missing_ones_is_in_the_logs_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Moody()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("json", "error")
    log = structlog.get_logger("gatelink.test")
    before = logs.dropped()
    stream.error = BrokenPipeError()
    log.error("lost")
    assert logs.flush(LONG)
    stream.error = None
    log.error("news")
    assert logs.flush(LONG)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert logs.dropped() == before + 1
    assert (first["event"], first["lines"], first["level"]) == ("log lines were dropped", 1, "error")
    assert second["event"] == "news"


def test_what_libraries_log_goes_the_same_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs.configure("json")
    logging.getLogger("asyncio").error("a task failed: %s", "why")
    logging.getLogger("somebody").warning("%d", "no number")
    assert logs.flush(LONG)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("asyncio", "error", "a task failed: why"),
        ("somebody", "warning", "%d (not shown: TypeError)"),
    ]
