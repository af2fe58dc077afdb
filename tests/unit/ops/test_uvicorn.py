"""The undocumented names of uvicorn that `gatelink.ops.http` uses: try a new version here before raising its bound."""

import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import h11
import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from gatelink.ops.http import HttpConnection

ROOT = Path(__file__).parents[3]


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_only_versions_that_were_tried_are_installed() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (need,) = [each for each in needs if each.startswith("uvicorn")]
    least, below = need.removeprefix("uvicorn>=").split(",<")
    assert numbers(least) <= numbers(version("uvicorn")) < numbers(below)
    assert numbers(below) <= (numbers(least)[0], numbers(least)[1] + 1)


async def ok(scope: object, receive: object, send: object) -> None:
    """An application that is never called."""


async def test_a_connection_has_the_names_that_are_used() -> None:
    config = uvicorn.Config(ok, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    config.load()
    connection = H11Protocol(config, server.server_state, {})
    for name in ("access_log", "client", "conn", "connections", "cycle", "logger", "loop", "transport"):
        assert hasattr(connection, name), f"a connection of uvicorn has no {name!r} any more"
    before_a_request: object = connection.cycle
    assert before_a_request is None
    assert isinstance(connection.conn, h11.Connection) and connection.loop is asyncio.get_running_loop()
    assert connection.connections is server.server_state.connections
    assert server.server_state.tasks == set()
    assert callable(config.lifespan_class) and CLOSE_HEADER == (b"connection", b"close")


@pytest.mark.parametrize("name", ["data_received", "on_response_complete", "send_400_response", "connection_lost"])
def test_the_methods_that_are_overridden_take_the_same_arguments(name: str) -> None:
    theirs, ours = (list(inspect.signature(getattr(each, name)).parameters) for each in (H11Protocol, HttpConnection))
    assert theirs == ours


def test_a_request_under_way_has_the_fields_that_are_used() -> None:
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("scope", "keep_alive", "response_started", "response_complete"):
        assert f"self.{name} = " in source, f"a request of uvicorn has no {name!r} any more"


@pytest.mark.parametrize("name", ["startup", "shutdown"])
def test_a_server_starts_and_stops_on_sockets_that_are_given(name: str) -> None:
    method = getattr(uvicorn.Server, name)
    assert inspect.iscoroutinefunction(method) and "sockets" in inspect.signature(method).parameters
