"""What the arena's demo shows: a picture that fits on a small terminal, and plain lines elsewhere."""

import asyncio
import io
import re
from collections import deque

import pytest
from rich.console import Console

from examples.arena.demo import entered
from examples.arena.players import Player, World
from examples.arena.show import Figures, Kill, Row, Show, curve
from examples.demo import DemoError

NAMES = ("gateway-1", "gateway-2", "lobby-1", "lobby-2", "login", "nats-server", "room-1", "room-2")
KILLS = [
    Kill("room", 6.9, 49, 1.6),
    Kill("lobby", 14.5, 0, 0.0),
    Kill("nats-server", 19.6, 0, 0.7),
    Kill("gateway", 24),
]


def show(width: int, is_terminal: bool = True) -> tuple[Show, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=is_terminal, color_system="256" if is_terminal else None)
    shown = Show(console=console)
    shown.figures = lambda: Figures(robots=500, inside=450, sent=51_710, told=50_490, heard=562_180, lost=64)
    for _ in range(300):
        shown.look()
    return shown, file


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_picture_fits_and_names_every_process_the_robots_and_each_kill(width: int) -> None:
    shown, _ = show(width)
    shown.rows = {name: Row(pid=4_194_304, memory=120_000_000) for name in NAMES}
    shown.rows["gateway-1"].gone_at = 0.0
    shown.rows["room-1"].restarts = 1
    for kill in KILLS:
        shown.killed(kill)
    with shown.console.capture() as capture:
        shown.console.print(shown.picture())
    lines = capture.get().splitlines()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))
    assert len(lines) <= 23 and max(map(len, plain.splitlines())) <= width
    said: tuple[str, ...] = (
        "450 of 500",
        "51,710",
        "up, started again",
        "49 robots lost their room",
        "all back in 1.6 s",
    )
    said = (*said, "no robot lost its room", "logins back in 0.7 s", "not all are back")
    assert [words for words in NAMES + said if words not in plain] == []
    killed = [line for line in lines if "killed a " in line or " s ago" in line]
    assert len(killed) == 1 + len(KILLS) and all("38;5;161" in line for line in killed), "kills are red"


def test_elsewhere_each_step_is_a_line_without_colours() -> None:
    shown, file = show(80, is_terminal=False)
    shown.say("starting")
    for kill in KILLS[:3]:
        shown.killed(kill)
        shown.back(kill)
    shown.line("Everything held.", "bold green")
    assert file.getvalue().splitlines() == [
        "arena: starting",
        "killed a room: 49 robots lost their room, the last was back after 1.6 s",
        "killed a lobby: 0 robots lost their room, the last was back after 0.0 s",
        "killed a nats-server: 0 robots lost their room, the last was back after 0.7 s",
        "Everything held.",
    ]


def test_a_curve_shows_the_newest_values_between_nothing_and_the_most() -> None:
    assert str(curve(deque([9.0, 0.0, 5.0, 10.0]), 3, most=10.0)) == "▁▄█"
    assert str(curve(deque([0.0, 0.0]), 5)) == "▁▁" and str(curve(deque(), 5)) == ""


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({}, "1 of 1 robots got into no room: no time was left. "),
        ({"a robot gave up: late": 1_234, "lost": 1}, "no room: 1,234 x a robot gave up: late; 1 x lost. "),
    ],
)
async def test_a_demo_whose_robots_do_not_get_in_says_why_in_words(errors: dict[str, int], words: str) -> None:
    world = World("http://127.0.0.1:1", rooms=1, password="")
    world.verdict.errors.update(errors)
    gave_up = asyncio.create_task(asyncio.sleep(0))
    await gave_up
    with pytest.raises(DemoError, match=f"{words}On a busy machine take fewer robots"):
        await entered([Player(world, 0, seed=0)], [gave_up], show(80)[0])
