"""The command `gatelink` while Python still imports its modules: it ends without a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gatelink import cli
from tests.processes import program

SCRIPT = "import sys\nfrom gatelink.cli import main\nsys.exit(main())\n"
STUCK = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"

WAYS: dict[str, Callable[[Path], list[str]]] = {
    "module": lambda folder: ["-m", "gatelink"],
    "module, joined": lambda folder: ["-mgatelink"],
    "script": lambda folder: [str(folder / "gatelink")],
}


@pytest.fixture(params=WAYS)
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """How a person starts it; the script is that of an installed package."""
    (tmp_path / "gatelink").write_text(SCRIPT)
    return [sys.executable, *WAYS[request.param](tmp_path)]


@pytest.mark.parametrize("module", ["msgspec", "structlog", "uvloop", "typer"])
async def test_ctrl_c_while_it_imports_ends_it_by_the_signal_and_without_a_word(
    command: list[str], module: str, tmp_path: Path
) -> None:
    stuck = tmp_path / "stuck"
    stuck.mkdir()
    (stuck / f"{module}.py").write_text(STUCK)
    async with program(*command, "version", environment={"PYTHONPATH": str(stuck)}) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        output, errors = await process.communicate()
    assert (output, errors, process.returncode) == (b"", b"", -signal.SIGINT)


def test_ctrl_c_before_the_command_has_begun_ends_it_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


SHOW = "import signal, sys; print(signal.getsignal(signal.SIGINT).__name__, flush=True)"


async def test_the_command_itself_and_other_programs_have_python_s_own_ctrl_c(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "shown.py").write_text(f"import gatelink\n{SHOW}\n")
    for words in ([*command, "serve", "shown:server"], [sys.executable, "shown.py"], [sys.executable, "-m", "shown"]):
        async with program(*words, cwd=tmp_path) as process:
            assert (await process.communicate())[0] == b"default_int_handler\n", words


async def test_where_the_shell_ignores_ctrl_c_it_stays_ignored(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import signal; print(signal.getsignal(signal.SIGINT).name, flush=True)\n")
    words = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", *command, "serve", "shown:server")
    async with program(*words, cwd=tmp_path) as process:
        assert (await process.communicate())[0] == b"SIG_IGN\n"


HIDDEN = "import sys\nsys.modules['gatelink._core'] = None\n"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("1", "GATELINK_NATIVE=1, but there is no compiled core: it was not built (docs/native.md)"),
        ("yes", "GATELINK_NATIVE=yes: give 0 (pure Python), 1 (the compiled core) or auto"),
    ],
)
@pytest.mark.parametrize("words", ["version", "--help", "serve nothing:here"])
async def test_a_core_that_can_not_be_used_is_one_line_and_status_78(
    command: list[str], words: str, wanted: str, reason: str, tmp_path: Path
) -> None:
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDDEN)
    environment = {"PYTHONPATH": str(folder), "GATELINK_NATIVE": wanted}
    async with program(*command, *words.split(), environment=environment) as process:
        output, errors = await process.communicate()
    assert (output, errors.decode(), process.returncode) == (b"", f"gatelink: {reason}\n", os.EX_CONFIG)
