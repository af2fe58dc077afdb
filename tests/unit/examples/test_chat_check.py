"""The check of the chat robots can fail: each wrong order of lines is found, each allowed one passes."""

import pytest

from examples.chat.check import LineCheck

Step = tuple[str, str, int] | str


def errors_of(*steps: Step) -> list[str]:
    """What a check says of `steps`: ("joined" or "line", room, number), or "break"."""
    errors: list[str] = []
    check = LineCheck(errors.append)
    for step in steps:
        if isinstance(step, str):
            check.broke()
        elif step[0] == "joined":
            check.joined(step[1], step[2])
        else:
            check.line(step[1], step[2])
    return errors


def lines(room: str, *numbers: int) -> list[Step]:
    return [("line", room, number) for number in numbers]


IN_JADE: Step = ("joined", "jade", 5)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([IN_JADE, *lines("jade", 5, 6, 7)], id="lines one by one"),
        pytest.param([IN_JADE, *lines("jade", 5), ("joined", "onyx", 1), *lines("onyx", 1)], id="another room"),
        pytest.param([IN_JADE, ("joined", "onyx", 1), ("joined", "jade", 9), *lines("jade", 9)], id="back in the room"),
        pytest.param([IN_JADE, "break", ("joined", "jade", 9), *lines("jade", 9, 10)], id="a gap over a break"),
        pytest.param([IN_JADE, "break", *lines("jade", 5, 6), ("joined", "jade", 9)], id="backlog without a gap"),
        pytest.param([IN_JADE, "break", *lines("jade", 7, 8), ("joined", "jade", 9)], id="a gap before the backlog"),
        pytest.param([*lines("jade", 7, 8), ("joined", "jade", 9)], id="the backlog of an earlier robot"),
    ],
)
def test_an_order_that_the_promise_allows_passes(steps: list[Step]) -> None:
    assert errors_of(*steps) == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            [IN_JADE, *lines("jade", 5, 7)],
            "line 7 of room jade; expected 6, 1 missing",
            id="a gap while connected",
        ),
        pytest.param([IN_JADE, *lines("jade", 6)], "line 6 of room jade; expected 5, 1 missing", id="a late start"),
        pytest.param([IN_JADE, *lines("jade", 5, 5)], "line 5 of room jade again or late; expected 6", id="a repeat"),
        pytest.param(
            [IN_JADE, *lines("jade", 5), "break", *lines("jade", 5)],
            "line 5 of room jade again or late; expected 6",
            id="a repeat over a break",
        ),
        pytest.param(
            [IN_JADE, "break", *lines("jade", 7, 9)],
            "line 9 of room jade; expected 8, 1 missing",
            id="a second gap after a break",
        ),
        pytest.param(
            [IN_JADE, "break", ("joined", "jade", 7), *lines("jade", 8)],
            "line 8 of room jade; expected 7, 1 missing",
            id="a gap after joining again",
        ),
        pytest.param(
            [IN_JADE, *lines("jade", 5, 6), "break", ("joined", "jade", 6)],
            "joined jade at line 6; expected 7 or more, 6 was there before",
            id="numbers that go back",
        ),
        pytest.param(
            [IN_JADE, *lines("onyx", 1)], "line 1 of room onyx; expected lines of jade", id="a line of another room"
        ),
    ],
)
def test_a_wrong_order_is_found_and_said(steps: list[Step], expected: str) -> None:
    assert errors_of(*steps) == [expected]


def test_lines_in_the_wrong_order_are_two_errors() -> None:
    assert errors_of(IN_JADE, *lines("jade", 6, 5)) == [
        "line 6 of room jade; expected 5, 1 missing",
        "line 5 of room jade again or late; expected 7",
    ]


def test_what_a_break_cost_is_counted_once() -> None:
    check = LineCheck(pytest.fail)
    check.joined("jade", 5)
    check.line("jade", 5)
    check.broke()
    check.line("jade", 8)  # 6 and 7 were on their way
    assert check.joined("jade", 12) == 5  # and 9, 10, 11 were said meanwhile
    assert check.joined("jade", 12) == 0


def test_what_was_said_while_in_another_room_was_not_missed() -> None:
    check = LineCheck(pytest.fail)
    check.joined("jade", 5)
    check.joined("onyx", 1)
    assert check.joined("jade", 50) == 0
