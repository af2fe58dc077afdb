"""What `gatelink top` draws: as much as the terminal has room for, what matters first."""

import pytest
from rich.console import Console

from gatelink.cluster.login_services import LoginServiceInfo
from gatelink.cluster.registry import Load, ServerInfo, State
from gatelink.ops.top import SORTS, Changes, EngineState, History, curve, view

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


def test_one_server_with_one_player_is_counted_as_one() -> None:
    lines = drawn([server(1, load=Load(sessions=1))], Changes(), 120, 24)
    assert lines[0].startswith("cluster game: 1 server, 1 up, 1 player, ")


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


def login(**fields: object) -> LoginServiceInfo:
    wanted: dict[str, object] = {
        "url": "http://10.20.30.40:8080",
        "logins": 12.0,
        "cpu": 0.5,
        "memory": 120_000_000,
        "instance": "1",
        "started_at": NOW - 60,
        "updated_at": NOW - 2,
    }
    return LoginServiceInfo(**(wanted | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("width, height", [(80, 24), (100, 30), (160, 50), (80, 10), (60, 8)])
def test_logins_engine_curves_and_keys_fit_on_a_screen_that_has_room_for_them(width: int, height: int) -> None:
    servers = [server(n, name="room", load=Load(1_000, 50.0, 0.01, 0.25, 80_000_000)) for n in range(1_000, 1_040)]
    servers.append(server(1, type=1, name="gateway", load=Load(sessions=777)))
    history, changes = History(), Changes()
    for _ in range(200):
        history.look(servers)
    changes(None, servers[0])
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(
            view(
                servers, changes, title="cluster game", now=NOW, width=width, height=height, logins=[login()],
                engine=EngineState(True, 0.004), history=history, has_keys=True,
            )
        )  # fmt: skip
    lines = capture.get().splitlines()
    text = "\n".join(lines)
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert "777 players" in lines[0] or width < 80
    assert "room 1000 joined" in text
    shown = [words in text for words in ("│ login ", "│ engine ", "q quit", "players █", "50 %", "120 MB")]
    assert all(shown) if height >= 24 else not any(shown[:4])


def test_servers_are_in_the_order_that_was_asked_for() -> None:
    loads = {1: Load(30, 1.0, 0.01, 0.5, 10), 2: Load(20, 2.0, 0.03, 0.1, 30), 3: Load(10, 3.0, 0.02, 0.3, 20)}
    servers = [server(id, type=2, name="room", load=load) for id, load in loads.items()]
    orders = {}
    for key in SORTS:
        console = Console(width=200, force_terminal=False)
        with console.capture() as capture:
            console.print(view(servers, Changes(), title="x", now=NOW, width=200, sort=key))
        orders[key] = [int(line.split("│")[2]) for line in capture.get().splitlines() if "│ room" in line]
    assert orders == {
        "n": [1, 2, 3], "s": [1, 2, 3], "m": [3, 2, 1], "l": [2, 3, 1], "c": [1, 3, 2], "e": [2, 3, 1],
    }  # fmt: skip


def test_what_is_away_or_fails_is_said() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture:
        failing = login(trouble="the engine cannot be used: away\x1b[2J")
        engine = EngineState(False, None)
        console.print(view([], Changes(), title="x", now=NOW, width=200, logins=[failing], engine=engine))
    text = capture.get()
    assert "fails" in text and "the engine cannot be used: away?[2J" in text and "\x1b" not in text
    assert any("engine" in line and " away " in line for line in text.splitlines())


def test_a_history_has_a_bar_for_each_report_of_a_server_and_none_of_one_that_left() -> None:
    history = History()
    for report, rate in ((1, 0.0), (1, 0.0), (2, 5.0), (3, 10.0)):
        history.look([server(1, updated_at=NOW + report, load=Load(messages=rate))])
    assert list(history.of(1)) == [0.0, 5.0, 10.0] and str(curve(history.of(1), 12)) == "▁▄█"
    history.look([])
    assert list(history.of(1)) == [] and list(history.messages)[-1] == 0
