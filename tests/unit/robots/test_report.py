"""The report of robots: its plots, its facts, and the record that can be read back from it."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis.strategies import characters, lists, text

from gatelink.errors import ConfigError
from gatelink.robots.record import Record, read
from gatelink.robots.report import plot, report, runs, ticks
from gatelink.robots.tally import Latency, Second

UTF8 = characters(codec="utf-8")


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


def second(at: float, **latencies: float) -> Second:
    return Second(at, 5, 10.0, 9.0, 0, {name: Latency(3, each, each, each, each) for name, each in latencies.items()})


def record(*seconds: Second, **fields: Any) -> Record:
    wanted: dict[str, Any] = {
        "title": "Robots: game:Walker", "what": "5 robots", "facts": {"host": "north"}, "elapsed": 10.0, "cpu": 0.25,
        "sent": 100, "received": 90, "all_errors": 0, "errors": [], "counts": {"breaks": 3}, "most_sessions": 5,
        "all_sessions": 7, "latencies": {"connect": Latency(5, 0.01, 0.02, 0.03, 0.04)}, "seconds": list(seconds),
    }  # fmt: skip
    return Record(**(wanted | fields))


def svgs(page: str) -> dict[str, ElementTree.Element]:
    """The plots of a page by their titles."""
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page)]
    return {svg.attrib["aria-label"].partition(" over the")[0]: svg for svg in found}


def labels(svg: ElementTree.Element) -> list[str]:
    """What is written at the y axis of a plot."""
    return [text.text or "" for text in svg.findall("text") if text.attrib.get("text-anchor") == "end"]


def test_errors_and_bounds_stand_under_the_verdict_before_everything_else() -> None:
    page = report(record(second(1), all_errors=2, errors=["2 x <lost>"], exceeded=["p99=1ms: p99 of say is 3 ms"]))
    order = ["2 errors. 1 bound not kept.", "p99=1ms: p99 of say", "2 x &lt;lost&gt;", "5 robots", "north", "<svg"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)


def test_the_facts_of_the_run_are_said_and_a_busy_process_of_robots_is_named() -> None:
    page = report(record(second(1), ended="The run ended after 3.0 of 10 s: it was stopped."))
    assert all(words in page for words in ("north", "25 % of a core", "10.0", "it was stopped"))
    assert "partly the robots' own" not in page
    assert "partly the robots&#x27; own" in report(record(second(1), cpu=0.97))


def test_each_latency_has_its_percentiles_and_the_longest() -> None:
    page = report(record(second(1)))
    assert "<td>10.0 ms</td><td>20.0 ms</td><td>30.0 ms</td><td>40.0 ms</td>" in page


def test_plots_of_one_unit_have_one_scale() -> None:
    plots = svgs(report(record(second(1, connect=0.8, say=0.002), latencies={
        "connect": Latency(1, 0.8, 0.8, 0.8, 0.8), "say": Latency(1, 0.002, 0.002, 0.002, 0.002)
    })))  # fmt: skip
    assert labels(plots["Latency of connect"]) == labels(plots["Latency of say"]) == ["0", "200", "400", "600", "800"]
    assert labels(plots["Sessions"]) != labels(plots["Throughput"])


def test_a_single_point_is_a_dot() -> None:
    svg = ElementTree.fromstring(plot("x", {"p50": [(1, 2), (2, None), (3, 4), (4, 5)]}, "ms"))
    assert len(svg.findall("circle")) == 1 and len(svg.findall("polyline")) == 2


def test_an_earlier_run_stands_beside_on_the_same_scale_with_the_changes() -> None:
    latencies = {"connect": Latency(5, 0.02, 0.02, 0.03, 0.08)}
    before = record(second(1, connect=0.4), what="the <old> one", latencies=latencies)
    page = report(record(second(1, connect=0.1), second(2, connect=0.1)), before)
    plots = svgs(page)
    assert labels(plots["Latency of connect"]) == labels(plots["Latency of connect, earlier"])
    titles = list(plots)
    assert titles[titles.index("Sessions") + 1] == "Sessions, earlier"
    assert "the &lt;old&gt; one" in page and "20.0 ms (now -50 %)" in page and "30.0 ms (now the same)" in page


def test_a_mark_is_a_line_with_its_text() -> None:
    svg = svgs(report(record(second(10), marks=[(4.0, "killed a <room>")])))["Throughput"]
    (mark,) = [line for line in svg.findall("line") if line.attrib["class"] == "mark"]
    assert mark.findtext("title") == "killed a <room>"


@given(texts=lists(text(UTF8, max_size=30), min_size=1, max_size=3))
def test_a_page_gives_its_record_back_whatever_is_in_it(texts: list[str]) -> None:
    wanted = record(second(1, connect=0.5), errors=[*texts, "--><!-- -->", "<script>"], title=texts[0], what=texts[-1])
    page = report(wanted)
    assert page.count("<!--") == page.count("-->") == 1 and "<script" not in page
    with TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_bytes(page.encode(errors="surrogatepass"))
        assert read(file) == wanted


BROKEN = (b"", b"<html>", b"\xff", b"<!-- gatelink robots {} -->", b"<!-- gatelink robots {x} -->")


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_report_of_robots_is_refused_with_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "old.html").write_bytes(content)
    with pytest.raises(ConfigError, match="old.html"):
        read(tmp_path / "old.html")
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none.html")
