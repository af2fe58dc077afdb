"""What gatelink logs harms nobody, whatever the program's own set-up of structlog raises."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gatelink.logger import Logger
from gatelink.ops import logs


@pytest.fixture(params=[RuntimeError, OSError, SystemExit])
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
