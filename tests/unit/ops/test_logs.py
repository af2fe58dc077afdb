"""What a log line looks like, and what it must never hold."""

import json
import sys
from datetime import datetime, timedelta

import pytest
import structlog

from gatelink.ops.logs import configure, flush

log = structlog.get_logger("gatelink.test")


def written(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """(standard output, standard error) once all lines are written."""
    assert flush(30)
    return capsys.readouterr()


def fail(token: str) -> None:
    try:
        raise ValueError(f"a token of {len(token)} characters")
    except ValueError as error:
        log.error("failed", exc_info=error)


def test_a_json_line_has_time_in_utc_level_logger_event_and_the_events_own_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json")
    log.info("verified", uid=7, address="::1")
    line = json.loads(written(capsys)[1])
    time = datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == timedelta(0)
    assert line == {"level": "info", "logger": "gatelink.test", "event": "verified", "uid": 7, "address": "::1"}


def test_a_json_line_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    log.info("seen", text="a\nb\udcff\x1b", raw=b"\xff", kind=object)
    assert len(written(capsys)[1].splitlines()) == 1


def test_a_console_line_has_time_level_event_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    log.warning("slow", uid=7)
    line = written(capsys)[1]
    assert "Z [warning  ] slow " in line and "[gatelink.test]" in line and "uid=7" in line


def test_a_peers_text_neither_forges_a_line_nor_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    log.info("refused", reason="x\n2026-01-01 forged\x1b[2J")
    out = written(capsys)[1]
    assert out.count("\n") == 1 and "\x1b" not in out


@pytest.mark.parametrize("format", ["console", "json"])
def test_a_traceback_is_shown_without_local_variables(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json" if format == "json" else "console")
    fail("s3cret")
    err = written(capsys)[1]
    assert "ValueError: a token of 6 characters" in err and "in fail" in err
    assert "s3cret" not in err


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "warning")
    log.info("chatter")
    log.warning("news")
    assert [json.loads(line)["event"] for line in written(capsys)[1].splitlines()] == ["news"]


def test_standard_output_is_left_to_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    log.error("news")
    assert written(capsys)[0] == ""


def test_it_follows_standard_error_where_that_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure("json")
    log.info("first")
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    log.info("second")
    out, err = written(capsys)
    assert json.loads(err)["event"] == "first" and json.loads(out)["event"] == "second"
