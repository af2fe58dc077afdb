from xml.etree import ElementTree

import pytest

from gatelink.robots.report import plot, runs, ticks


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, [0, 0.5, 1]), (7, [0, 5, 10]), (100, [0, 50, 100]), (0.03, [0, 0.01, 0.02, 0.03]), (0, [0, 1])],
)
def test_ticks_are_round_and_reach_the_most(most: float, expected: list[float]) -> None:
    assert ticks(most, 3) == expected


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    line = [(1.0, 1.0), (2.0, None), (3.0, None), (4.0, 2.0), (5.0, 3.0)]
    assert runs(line) == [[(1.0, 1.0)], [(4.0, 2.0), (5.0, 3.0)]]


def test_a_plot_is_well_formed_and_draws_every_series() -> None:
    root = ElementTree.fromstring(plot('<a> & "b"', {"p50": [(1, 2), (2, 4)], "p99": [(1, None), (2, 8)]}, "ms"))
    assert root.attrib["aria-label"] == '<a> & "b"'
    assert len(root.findall("polyline")) == 2


def test_nothing_to_plot_is_an_empty_plot() -> None:
    assert ElementTree.fromstring(plot("nothing", {"sent": []}, "")).findall("polyline") == []
