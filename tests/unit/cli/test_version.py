"""`gatelink --version` and `gatelink version`: what a bug report needs."""

import platform

import pytest
from typer.testing import CliRunner

from gatelink import __version__, _native
from gatelink.cli import app


@pytest.mark.parametrize("arguments", [["--version"], ["version"], ["--version", "serve", "nothing:here"]])
def test_the_versions_are_printed(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert f"gatelink  {__version__}\n" in result.stdout
    assert f"core      {_native.description()}\n" in result.stdout
    assert platform.python_version() in result.stdout and "msgspec" in result.stdout


def test_the_help_names_the_option_and_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("--version", "connection tier", "serve", "config"):
        assert word in result.stdout
