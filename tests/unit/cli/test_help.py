"""Help names every argument and exit status, and every command and option that a page names is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gatelink.cli import app
from tests.unit.test_docs import every_page

# `gatelink psk id` and `gatelink resume c` are labels of key derivations.
_CODE = re.compile(r"`(gatelink (?!(?:psk|resume) )[^`]+)`|^(?:    |\$ )(gatelink (?:.+\\\n)*.+)$", re.MULTILINE)


def commands(group: Any, *words: str) -> Iterator[tuple[str, Any]]:
    """Each command below `group`: what to write, and typer's object of it."""
    for word, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, *words, word)
        else:
            yield " ".join([*words, word]), found


GROUP: Any = typer.main.get_command(app)
COMMANDS = dict(commands(GROUP))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument_and_names_the_exit_statuses(command: str) -> None:
    found = COMMANDS[command]
    assert all(each.help for each in found.params), "an argument or option has no help"
    assert command == "version" or "xit status: 0" in found.help


@pytest.mark.parametrize("arguments", [["-h"], ["serve", "-h"], ["config", "check", "-h"]])
def test_a_short_option_shows_the_help_of_every_command(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "Usage:" in result.stdout and "--help" in result.stdout


def test_the_commands_are_in_groups_and_the_shell_can_complete_them() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    heads = ("─ Run ─", "│ serve ", "│ login ", "─ Operate and test ─", "│ top ", "│ keys ")
    places = [text.index(words) for words in heads]
    assert places == sorted(places) and "--install-completion" in text
    environment = {"_GATELINK_COMPLETE": "complete_bash", "COMP_WORDS": "gatelink se", "COMP_CWORD": "1"}
    words = CliRunner().invoke(app, [], prog_name="gatelink", env=environment).stdout.split()
    assert words == ["serve", "service", "sessions"]


def unknown(text: str) -> list[str]:
    """The command lines of `gatelink` in a page with a command or option that is not there."""
    wrong = []
    for inline, block in _CODE.findall(text):
        line = re.split(r"\s#|\s\||;", inline or block)[0]
        command: Any = GROUP
        for word in shlex.split(line)[1:]:
            if word == "--":  # what follows is another program's
                break
            options = ["--help", *(option for each in command.params for option in each.opts)]
            if word.startswith("--") and word not in options:
                wrong.append(line)
                break
            if not word.startswith("-") and hasattr(command, "commands"):
                command = command.commands.get(word)
                if command is None:
                    wrong.append(line)
                    break
    return wrong


@every_page
def test_every_command_and_option_on_a_page_is_there(page: Path) -> None:
    if page.name != "CHANGELOG.md":  # it names what an earlier version had
        assert unknown(page.read_text()) == []


def test_what_is_not_there_is_found() -> None:
    lines = ["gatelink fly", "gatelink keys bend", "gatelink top --often", "gatelink up cluster.toml --dev"]
    assert unknown("\n".join(f"    {line}" for line in lines)) == lines[:3]
