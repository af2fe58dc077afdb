"""gatelink's log lines harm nobody, whatever the program's own set-up of structlog raises, and at whatever rate."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gatelink.logger import Logger, RateLimitedLogger
from gatelink.ops import logs


@pytest.fixture(params=[RuntimeError, OSError, SystemExit, asyncio.CancelledError, GeneratorExit])
def raising(request: pytest.FixtureRequest) -> Iterator[None]:
    def fail(logger: object, method: str, event: Any) -> Any:
        raise request.param("the log is not there")

    before = structlog.get_config()
    structlog.configure(processors=[fail])
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("raising")
@pytest.mark.parametrize("method", ["info", "warning", "error"])
def test_a_line_that_the_program_s_set_up_refuses_raises_nothing_and_is_counted(method: str) -> None:
    lost = logs.dropped()
    getattr(Logger("gatelink.test"), method)("an event", uid=7)
    assert logs.dropped() == lost + 1


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_event_is_written_once_a_second_and_the_next_line_says_how_many_were_left_out() -> None:
    clock = Clock()
    with capture_logs() as lines:
        quiet = RateLimitedLogger(Logger("test"), clock)
        for uid in range(1_000):
            quiet.info("login refused", uid=uid)
        clock.now = 1.0
        quiet.info("login refused", uid=7)
        clock.now = 2.0
        quiet.info("login refused", uid=8)
    assert lines == [
        {"event": "login refused", "log_level": "info", "uid": 0},
        {"event": "login refused", "log_level": "info", "uid": 7, "left_out": 999},
        {"event": "login refused", "log_level": "info", "uid": 8},
    ]


def test_one_event_keeps_no_other_from_being_written() -> None:
    with capture_logs() as lines:
        quiet = RateLimitedLogger(Logger("test"), Clock())
        quiet.info("login refused")
        quiet.error("login failed")
        quiet.error("login failed")
    assert [line["event"] for line in lines] == ["login refused", "login failed"]


def test_a_traceback_shows_no_local_variables_where_the_program_has_not_set_up_structlog(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verify(token: str) -> None:
        raise LookupError("no such user")

    structlog.reset_defaults()
    try:
        verify("-".join(("a", "5ecret")))
    except LookupError as error:
        Logger("gatelink.test").error("a handler failed", exc_info=error, uid=7)
    shown = capsys.readouterr().out
    assert "LookupError: no such user" in shown and "in verify" in shown and "uid" in shown
    assert "a-5ecret" not in shown
