"""What `gatelink top` draws: as much as the terminal has room for, what matters first."""

import pytest
from rich.console import Console

from gatelink.cluster.registry import Load, ServerInfo, State
from gatelink.ops.top import Changes, view

NOW = 1_000_000.0


def server(id: int, **fields: object) -> ServerInfo:
    wanted: dict[str, object] = {
        "id": id,
        "type": 1 + id // 1_000,
        "name": "a-room-of-the-north",
        "inner": "tcp://10.20.30.40:7500",
        "outer": ("tls://play.example.com:443",),
        "version": "0.1.0",
        "load": Load(sessions=12_345, messages=67_890.0, lag=0.012),
        "started_at": NOW - 93_784,
        "updated_at": NOW - 3,
    }
    return ServerInfo(**(wanted | fields))  # type: ignore[arg-type]


def drawn(servers: list[ServerInfo], changes: Changes, width: int, height: int | None) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(view(servers, changes, title="cluster game", now=NOW, width=width, height=height))
    return capture.get().splitlines()


@pytest.mark.parametrize("width, height", [(80, 24), (120, 30), (200, 60), (80, 10), (60, 8)])
def test_it_has_room_on_the_terminal_says_what_has_not_and_shows_the_latest_change(width: int, height: int) -> None:
    servers = [server(n) for n in range(1_000, 1_040)]
    changes = Changes()
    for info in servers:
        changes(info, None)
    lines = drawn(servers, changes, width, height)
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert lines[0].startswith("cluster game: 40 servers, 40 up")
    assert any("room 1039 left" in line or "north 1039 left" in line for line in lines)
    rows = [line for line in lines if "│ a-" in line]
    assert len(rows) == 40 or any(f"{40 - len(rows)} more" in line for line in lines)


def test_what_matters_is_whole_on_a_terminal_of_80_columns() -> None:
    (row,) = [
        line for line in drawn([server(1_234, name="room", state=State.DRAINING)], Changes(), 80, 24) if "room" in line
    ]
    for figure in ("1234", "draining", "12,345", "67,890", "12 ms", "3s"):
        assert f" {figure} " in row


def test_a_wide_one_and_a_script_see_addresses_too() -> None:
    for height in (24, None):
        text = "\n".join(drawn([server(1_234, admin="10.20.30.40:9100")], Changes(), 200, height))
        for word in ("26h", "0.1.0", "tls://play.example.com:443", "inner tcp://10.20.30.40:7500", "admin 10.20"):
            assert word in text
    assert "inner" not in "\n".join(drawn([server(1_234)], Changes(), 120, 24))


def test_a_script_sees_all_servers() -> None:
    assert (
        len([line for line in drawn([server(n) for n in range(1, 301)], Changes(), 200, None) if "inner" in line])
        == 300
    )
