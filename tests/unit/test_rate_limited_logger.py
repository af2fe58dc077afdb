"""How often an event that peers can cause is logged."""

import structlog
from structlog.testing import capture_logs

from gatelink.rate_limited_logger import RateLimitedLogger


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_event_is_written_once_a_second_and_the_next_line_says_how_many_were_left_out() -> None:
    clock = Clock()
    with capture_logs() as lines:
        quiet = RateLimitedLogger(structlog.get_logger(), clock)
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
        quiet = RateLimitedLogger(structlog.get_logger(), Clock())
        quiet.info("login refused")
        quiet.error("login failed")
        quiet.error("login failed")
    assert [line["event"] for line in lines] == ["login refused", "login failed"]
