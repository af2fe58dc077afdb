"""For every benchmark: pinned children that end with it, the kernel's counters, and a description of the machine."""

import os
import platform
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from examples.demo import reserved_ports

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "benchmarks" / "build"

HOST = "127.0.0.1"
SERVER_COMMAND = f"{sys.executable} -m gatelink serve benchmarks.echo:server --listen tcp://{HOST}:{{port}}"
LIBCRYPTO, LIBSSL = "libcrypto.so.3", "libssl.so.3"  # of OpenSSL 3, for generators that seal
LIBRARIES = ("uvloop", "msgspec", "cryptography", "cramjam")

STARTING = 20.0  # s that a server may take until it accepts
ENDING = 5.0  # s that a child may take to end before it is killed
TICKS = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A benchmark could not be run to its end. The text has the reason."""


def guarded(benchmark: Callable[[], None], seconds: float) -> int:
    """Run `benchmark` for at most `seconds`; give the exit code. Its children end whatever happens."""

    def out_of_time(*_: object) -> None:
        raise BenchmarkError(f"not done after {seconds:.0f} s")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        benchmark()
    except BenchmarkError as error:
        print(f"benchmark failed: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def cores() -> tuple[int, int]:
    """The server's core and the load's: 0 and 1, or the first two that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchmarkError(f"only core {allowed[0]} may be used; server and load need one each")
    return allowed[0], allowed[1]


def pinned(core: int, *command: str) -> list[str]:
    """`command`, held to `core`. taskset becomes the command, so the pid is the command's own."""
    return ["taskset", "-c", str(core), *command]


def allow_files(count: int) -> None:
    """Let this process and its children have `count` files open. Raises BenchmarkError over the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count > hard != resource.RLIM_INFINITY:
        raise BenchmarkError(f"{count} open files are needed and {hard} allowed; raise it with ulimit -Hn as root")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def built(name: str, *libraries: str) -> str:
    """The path of benchmarks/`name`.c as a program, compiled when it is missing or older than a source.

    libraries: files of shared libraries that it is linked with.
    """
    sources, program = ROOT / "benchmarks", BUILD / name
    newest = max(source.stat().st_mtime for source in sources.glob("*.[ch]"))
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(exist_ok=True)
        command = ["cc", "-O2", "-pthread", "-o", str(program), str(sources / f"{name}.c")]
        done = subprocess.run(
            [*command, *(f"-l:{library}" for library in libraries)], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            needs = f" (it needs {', '.join(libraries)}: apt-get install libssl3)" if libraries else ""
            raise BenchmarkError(f"cc could not compile {name}.c{needs}: {done.stderr}")
    return str(program)


@contextmanager
def serving(command: str, core: int) -> Iterator[tuple[int, int]]:
    """Run `command`, a line with `{port}` in it, on `core` while the block runs; give its (pid, port).

    Raises BenchmarkError when it ends early or does not accept within 20 s. What fails in the block gets the
    end of the server's output as a note.
    """
    with reserved_ports() as port, tempfile.TemporaryFile() as output:
        argv = [word.format(port=port) for word in shlex.split(command)]
        server = subprocess.Popen(
            pinned(core, *argv), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_accepting(server, port)
            yield server.pid, port
        except BenchmarkError as error:
            error.add_note(f"{' '.join(argv)} wrote:\n{tail(output)}")
            raise
        finally:
            end(server)


def _wait_until_accepting(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise BenchmarkError(f"the server ended with {server.returncode} before it accepted a connection")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise BenchmarkError(f"the server did not accept on port {port} within {STARTING:.0f} s")


def end(child: subprocess.Popen[bytes]) -> None:
    """Terminate `child`, and kill it when it is not gone within 5 s."""
    child.terminate()
    try:
        child.wait(ENDING)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(ENDING)


def tail(output: IO[bytes], size: int = 4_000) -> str:
    """The end of what was written to `output`."""
    length = output.seek(0, os.SEEK_END)
    output.seek(max(0, length - size))
    return output.read().decode(errors="replace") or "(nothing)"


def cpu_seconds(pid: int) -> float:
    """User and system time of process `pid` so far, to 1/100 s."""
    fields = _proc(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS  # utime and stime: 14 and 15 of all fields


def user_seconds(pid: int) -> float:
    """The user time of process `pid` so far, to 1/100 s: what it spends outside the kernel."""
    return int(_proc(pid, "stat").rpartition(")")[2].split()[11]) / TICKS


def rss_bytes(pid: int) -> int:
    """The resident memory of process `pid`, in bytes."""
    line = next(line for line in _proc(pid, "status").splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        raise BenchmarkError(f"the server (pid {pid}) has ended") from None


def wait_until_idle(pid: int) -> None:
    """Wait until process `pid` uses no processor time for 0.1 s, 10 s at most: then the core is free for another."""
    deadline = time.monotonic() + 10
    used = cpu_seconds(pid)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        before, used = used, cpu_seconds(pid)
        if used == before:
            return


def environment() -> dict[str, str]:
    """The machine, kernel, Python and libraries."""
    found = {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def describe_environment() -> str:
    """`environment()` as one line."""
    return "; ".join(f"{name} {value}" for name, value in environment().items())


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
