"""The two tables are the whole truth: what is not in them cannot happen."""

from enum import Enum
from itertools import product
from typing import Any

import pytest

from gatelink.session.states import (
    CONNECTION,
    SESSION,
    ConnectionEvent,
    ConnectionState,
    SessionEvent,
    SessionState,
    step,
)

MACHINES = [
    pytest.param(CONNECTION, ConnectionState, ConnectionEvent, ConnectionState.UNVERIFIED, id="connection"),
    pytest.param(SESSION, SessionState, SessionEvent, SessionState.OPEN, id="session"),
]
every_machine = pytest.mark.parametrize("table, states, events, first", MACHINES)


@every_machine
def test_every_state_and_event_has_its_transition_or_cannot_happen(
    table: dict[Any, Any], states: type[Enum], events: type[Enum], first: Enum
) -> None:
    for state, event in product(states, events):
        if (state, event) in table:
            assert step(table, state, event) is table[state, event]
        else:
            with pytest.raises(RuntimeError, match=f"{event} cannot happen in {state}"):
                step(table, state, event)


@every_machine
def test_closed_is_the_only_end(table: dict[Any, Any], states: type[Enum], events: type[Enum], first: Enum) -> None:
    ends = [state for state in states if all((state, event) not in table for event in events)]
    assert [state.name for state in ends] == ["CLOSED"]


@every_machine
def test_every_state_can_be_reached_and_can_end(
    table: dict[Any, Any], states: type[Enum], events: type[Enum], first: Enum
) -> None:
    def reached_from(start: Enum) -> set[Enum]:
        found, fresh = {start}, [start]
        while fresh:
            here = fresh.pop()
            after = {there for (state, _), there in table.items() if state is here} - found
            found |= after
            fresh += after
        return found

    assert reached_from(first) == set(states)
    for state in states:
        assert states["CLOSED"] in reached_from(state)


@every_machine
def test_what_is_closing_never_opens_again(
    table: dict[Any, Any], states: type[Enum], events: type[Enum], first: Enum
) -> None:
    after = {there.name for (state, _), there in table.items() if state.name == "CLOSING"}
    assert after <= {"CLOSING", "CLOSED"}


@every_machine
def test_a_connection_or_session_can_be_lost_at_any_time(
    table: dict[Any, Any], states: type[Enum], events: type[Enum], first: Enum
) -> None:
    lost = ConnectionEvent.LOST if states is ConnectionState else SessionEvent.END
    assert {table.get((state, lost)) for state in states if state.name != "CLOSED"} == {states["CLOSED"]}
