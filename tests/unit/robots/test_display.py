"""A load test on a terminal."""

import pytest
from rich.console import Console

from gatelink.robots.display import live, summary
from gatelink.robots.tally import Tally


@pytest.mark.parametrize("count, text", [(1, "1 robot, "), (2, "2 robots, ")])
def test_the_titles_count_the_robots(count: int, text: str) -> None:
    tally = Tally()
    tally.start()
    tally.end_second()
    for table in (live(tally, count, 10), summary(tally, count)):
        console = Console(width=80)
        with console.capture() as capture:
            console.print(table)
        assert capture.get().startswith(text)
