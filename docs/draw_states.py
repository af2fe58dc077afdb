"""Draws docs/states.md from the tables of states in the source: `python docs/draw_states.py`.

A test compares the page with the tables, so the page cannot differ from what runs.
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from gatelink.cluster.type_route import ROUTE, RouteState
from gatelink.net.states import DIAL, LOGIN, DialState, LoginState
from gatelink.session.states import CONNECTION, SESSION, ConnectionState, SessionState

PAGE = Path(__file__).with_name("states.md")

INTRODUCTION = """# States

Each machine on this page is a table in the source. A row has a state, an event that can happen in it, and the state
after the event. Any other event raises an error there. [draw_states.py](draw_states.py) draws the page.
"""

Table = Mapping[tuple[Any, Any], Enum]

MACHINES: tuple[tuple[str, str, Table, Enum], ...] = (
    (
        "A connection",
        "src/gatelink/session/states.py",
        CONNECTION,
        ConnectionState.UNVERIFIED,
    ),
    ("A session", "src/gatelink/session/states.py", SESSION, SessionState.OPEN),
    ("A login check", "src/gatelink/net/states.py", LOGIN, LoginState.FIRST_FRAME),
    ("A dialer", "src/gatelink/net/states.py", DIAL, DialState.IDLE),
    (
        "A player's route to a type of server",
        "src/gatelink/cluster/type_route.py",
        ROUTE,
        RouteState.UNBOUND,
    ),
)
"""Title, file, table and first state of each."""


def draw(title: str, file: str, table: Table, first: Enum) -> str:
    """One section of the page: a diagram (Mermaid), and the same as a table."""
    ends = {state for state in table.values()} - {state for state, _ in table}
    arrows = "\n".join(
        f"    {state.name} --> {after.name}: {event.name}"
        for (state, event), after in table.items()
    )
    stops = "".join(
        f"\n    {state.name} --> [*]"
        for state in sorted(ends, key=lambda state: state.name)
    )
    rows = "\n".join(
        f"| {state.name} | {event.name} | {after.name} |"
        for (state, event), after in table.items()
    )
    return f"""
## {title}

From [{file.rpartition("/")[2]}](../{file}).

```mermaid
stateDiagram-v2
    [*] --> {first.name}
{arrows}{stops}
```

| state | event | state after it |
| --- | --- | --- |
{rows}
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(draw(*machine) for machine in MACHINES)


if __name__ == "__main__":
    PAGE.write_text(page())
