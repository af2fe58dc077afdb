"""What `make cluster` says can be wrong: each kind of loss is found, and counted once."""

from pathlib import Path

import msgspec
import pytest

from tests.adversity.cluster.analysis import Cost, Window, analyze
from tests.adversity.cluster.events import (
    Answered,
    AnyEvent,
    Ended,
    Handled,
    Health,
    Journal,
    Opened,
    Probed,
    Sent,
    Told,
    decode,
    read,
)

BEGAN = 7_000.0
WINDOW = Window(began=BEGAN, over=BEGAN + 10, until=BEGAN + 30)
USER, OTHER = 11, 12
PERIOD = 0.25


def talk(login: int = 1, start: float = BEGAN - 1, end: float = WINDOW.until, uid: int = USER) -> list[AnyEvent]:
    """A session that is answered at once, from `start` to `end`."""
    events: list[AnyEvent] = [Opened(start, uid, login, "tcp://10.0.0.1:7000")]
    for number in range(int((end - start) / PERIOD)):
        at = start + number * PERIOD
        events.append(Sent(at, uid, login, number))
        events.append(Handled(at + 0.01, uid, login, number, 41_001, (login, 1)))
        events.append(Answered(at + 0.02, uid, login, number))
    return events


def cost_of(events: list[AnyEvent]) -> Cost:
    return analyze(events, WINDOW)


def without(events: list[AnyEvent], kind: type[Handled] | type[Answered], numbers: set[int]) -> list[AnyEvent]:
    """The events but those of this kind with these numbers."""
    return [each for each in events if not (isinstance(each, kind) and each.number in numbers)]


def test_without_harm_nothing_is_broken_and_nobody_was_silent() -> None:
    cost = cost_of(talk() + talk(uid=OTHER))
    assert cost.broken() == []
    assert (cost.up.lost, cost.down.lost, cost.up.with_session, cost.heard_twice, cost.healed) == (0, 0, 0, 0, 0.0)
    assert cost.up.sent == cost.down.sent == 2 * 124
    assert cost.longest_silence == pytest.approx(PERIOD + 0.02, abs=0.25)


def test_a_message_that_nobody_handled_is_lost_and_untold_until_somebody_is_told() -> None:
    events = without(without(talk(), Handled, {5, 6}), Answered, {5, 6})
    cost = cost_of(events)
    assert (cost.up.lost, cost.untold, cost.down.lost) == (2, 2, 0)
    assert any("nobody was told" in text for text in cost.broken())
    cost = cost_of([*events, Told(BEGAN + 3, USER, 2, 41_002)])
    assert (cost.up.lost, cost.told, cost.untold, cost.broken()) == (2, 2, 0, [])


def test_the_losses_of_one_user_are_not_told_to_another() -> None:
    events = without(without(talk(), Handled, {5}), Answered, {5}) + talk(uid=OTHER)
    assert cost_of([*events, Told(BEGAN + 3, OTHER, 9, 41_002)]).untold == 1


def test_what_was_lost_with_a_session_that_ended_is_counted_apart() -> None:
    events = without(without(talk(end=BEGAN + 5), Handled, {20, 21}), Answered, {20, 21})
    cost = cost_of([*events, Ended(BEGAN + 5, USER, 1, 4011, "going away"), *talk(2, BEGAN + 5)])
    assert (cost.up.lost, cost.up.with_session, cost.untold, cost.broken()) == (0, 2, 0, [])
    assert cost.ends == {"4011 going away": 1}


def test_a_session_that_the_second_device_replaced_is_no_news() -> None:
    assert cost_of([*talk(), Ended(BEGAN + 5, USER, 7, 4003, "a newer login")]).ends == {}


def test_an_answer_that_does_not_come_is_lost_downwards() -> None:
    cost = cost_of(without(talk(), Answered, {8}))
    assert (cost.up.lost, cost.down.lost) == (0, 1)


@pytest.mark.parametrize("server", [41_001, 41_002])
def test_a_message_that_is_handled_twice_breaks_the_promise(server: int) -> None:
    cost = cost_of([*talk(), Handled(BEGAN + 2, USER, 1, 0, server, (1, 1))])
    assert (cost.up.doubled, cost.up.reordered) == (1, 0)
    assert cost.broken()


def test_an_answer_that_comes_twice_breaks_the_promise() -> None:
    cost = cost_of([*talk(), Answered(BEGAN + 2, USER, 1, 0)])
    assert (cost.up.doubled, cost.down.doubled) == (0, 1)
    assert cost.broken()


def test_a_message_that_one_lobby_handles_after_a_later_one_in_another_is_out_of_order() -> None:
    late = Handled(BEGAN + 20, USER, 1, 6, 41_002, (1, 1))
    cost = cost_of([*without(talk(), Handled, {6}), late])
    assert (cost.up.reordered, cost.up.doubled, cost.up.lost) == (1, 0, 0)
    assert cost.broken()


def test_answers_are_judged_by_the_order_in_which_they_came() -> None:
    cost = cost_of([*without(talk(), Answered, {6}), Answered(BEGAN + 20, USER, 1, 6)])
    assert (cost.up.reordered, cost.down.reordered) == (0, 1)
    assert cost.broken()


def elsewhere(events: list[AnyEvent]) -> list[AnyEvent]:
    """The same, handled by the other lobby."""
    return [msgspec.structs.replace(each, server=41_002) if isinstance(each, Handled) else each for each in events]


def test_an_older_session_that_a_service_hears_after_the_newer_one_breaks_the_promise() -> None:
    newer = talk(2, BEGAN + 4.9)
    assert cost_of([*talk(end=BEGAN + 5), *newer]).heard_twice == 0
    cost = cost_of([*talk(end=BEGAN + 6), *newer])
    assert (cost.heard_twice, cost.overlapped) == (4, 0)
    assert cost.broken()


def test_another_service_may_hear_the_older_session_for_a_while() -> None:
    newer = elsewhere(talk(2, BEGAN + 4.9))
    cost = cost_of([*talk(end=BEGAN + 6), *newer])
    assert (cost.heard_twice, cost.overlapped, cost.broken()) == (0, 4, [])
    assert cost.overlap == pytest.approx(0.85)
    cost = cost_of([*talk(end=BEGAN + 16), *newer])
    assert cost.overlap == pytest.approx(9.85)
    assert cost.heard_twice == 4
    assert cost.broken()


def test_a_service_that_has_heard_the_newer_session_may_not_hear_the_older_one_wherever_else_it_was_heard() -> None:
    back = Handled(BEGAN + 6, USER, 2, 900, 41_001, (2, 2))
    older = Handled(BEGAN + 6.1, USER, 1, 900, 41_001, (1, 1))
    cost = cost_of([*talk(end=BEGAN + 5), *elsewhere(talk(2, BEGAN + 4.9)), back, older])
    assert cost.heard_twice == 1


@pytest.mark.parametrize(
    ("messages", "misfenced"),
    [
        ([(1, 0, (1, 1)), (1, 1, (1, 1)), (1, 2, (1, 2)), (2, 0, (5, 1))], 0),
        ([(1, 0, (1, 1)), (2, 0, (2, 1)), (1, 1, (1, 1)), (2, 1, (2, 1))], 0),  # the old one would be refused
        ([(1, 0, (1, 1)), (2, 0, (2, 1)), (1, 1, (2, 1))], 1),  # an old one would be taken
        ([(1, 0, (1, 2)), (1, 1, (1, 1))], 1),  # a new one would be refused
        ([(1, 0, (3, 1)), (2, 0, (2, 1)), (2, 1, (2, 1))], 2),
    ],
)
def test_a_fence_tells_old_messages_from_new_ones(
    messages: list[tuple[int, int, tuple[int, int]]], misfenced: int
) -> None:
    handled = [
        Handled(BEGAN + at, USER, login, number, 41_001, fence) for at, (login, number, fence) in enumerate(messages)
    ]
    assert cost_of([Opened(BEGAN, USER, 1, ""), *handled]).misfenced == misfenced


def test_a_player_that_is_no_robot_is_not_judged() -> None:
    """New players log in again with the same device, and number nothing."""
    strangers = [Handled(BEGAN + at, OTHER, 0, 0, 41_001, (0, 0)) for at in (1, 2, 3)]
    cost = cost_of([*talk(), *strangers])
    assert (cost.up.doubled, cost.broken()) == (0, [])


def test_new_players_are_refused_from_the_first_refusal_to_the_next_login() -> None:
    def arrives(after: float, error: str = "", login: str = "login1") -> Probed:
        return Probed(BEGAN + after, login, 0.1, error, not error)

    probes = [arrives(0), arrives(1, "503"), arrives(2, "503"), arrives(4), arrives(6, "503"), arrives(6.5)]
    cost = cost_of([*talk(), *probes, arrives(1, login="login2")])
    assert cost.refused == {"login1": 3.5, "login2": 0.0}
    assert cost.healed == 0.0
    cost = cost_of([*talk(), *probes, arrives(11, "503"), arrives(12.5)])
    assert cost.healed == 2.5
    cost = cost_of([*talk(), *probes, arrives(11, "503")])
    assert cost.healed is None
    assert cost.broken()


def test_what_healthz_did_not_say_is_counted_from_the_first_refusal_to_the_first_bad_answer() -> None:
    refusals = [Probed(BEGAN + at, login, 0.1, "503", False) for at in (1, 4) for login in ("login1", "login2")]
    probes = [*refusals, Probed(BEGAN + 6, "login1", 0.1, "", True), Probed(BEGAN + 6, "login2", 0.1, "", True)]
    health = [Health(BEGAN + at, login, 200) for at in (0.5, 1.5, 7) for login in ("login1", "login2")]
    cost = cost_of([*talk(), *probes, *health, Health(BEGAN + 3, "login1", 503)])
    assert cost.refused == {"login1": 5.0, "login2": 5.0}
    assert cost.unreported == {"login1": 2.0, "login2": 5.0}


def test_healthz_of_a_login_need_not_know_of_a_gateway_that_does_not_answer() -> None:
    probes = [Probed(BEGAN + 1, "login1", 5.0, "no answer", True), Probed(BEGAN + 4, "login1", 0.1, "", True)]
    cost = cost_of([*talk(), *probes])
    assert (cost.refused, cost.unreported) == ({"login1": 3.0}, {"login1": 0.0})


def test_silence_is_counted_over_sessions_and_to_the_end_of_the_watch() -> None:
    events = [*talk(end=BEGAN + 4), Ended(BEGAN + 4, USER, 1, 4011, ""), *talk(2, BEGAN + 14), *talk(uid=OTHER)]
    cost = cost_of(events)
    assert cost.longest_silence == pytest.approx(10.25, abs=0.3)
    assert cost.healed == pytest.approx(4.02, abs=0.01)
    assert cost_of(talk(end=BEGAN + 20)).healed is None


def test_a_journal_gives_back_what_was_noted_but_a_line_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events"
    assert read(path) == []
    journal = Journal(path)
    journal.note(Sent(1.5, USER, 1, 0), Probed(2.0, "login1", 0.1, "", True))
    size = path.stat().st_size
    journal.note(Told(3.0, USER, 4, 41_001))
    with path.open("ab") as file:
        file.write(b'["Sent",4.0,')
    assert read(path) == [Sent(1.5, USER, 1, 0), Probed(2.0, "login1", 0.1, "", True), Told(3.0, USER, 4, 41_001)]
    assert read(path, size) == [Told(3.0, USER, 4, 41_001)]
    with pytest.raises(msgspec.MsgspecError):
        decode([b'["Nonsense",1.0]\n'])
