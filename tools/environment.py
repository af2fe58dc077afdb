"""`python tools/environment.py EXTRA`: make .venv with gatelink (editable) and an extra, or bring it up to date.

EXTRA is `login`, for the demos, or `dev`, for the tools too. All needs are checked before anything is made,
and each missing one is reported with its fix. While pip works, a line every two seconds shows its progress.

It runs on the machine's own Python and imports only the standard library. An older Python must be able to parse it, so
that it can report that it is too old.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import IO

OLDEST = (3, 11)
DOWNLOADS = {"login": (35, 200), "dev": (140, 560)}
"""MB, about, of an extra and its dependencies: to download, and on the disk."""

EVERY = 2.0  # s between two lines while pip works
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = {"login": VENV / ".runs", "dev": VENV / ".installed"}
"""What `make` looks at: newer than pyproject.toml, if the extra is in .venv."""

UNITS = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
DOWNLOADING = re.compile(r"\s*Downloading (\S+) \(([0-9.]+) ([kMG]?B)\)")
COLLECTING = re.compile(r"(?:Collecting|Processing) (\S+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make install", description="Make .venv with gatelink and one of its extras.")
    parser.add_argument("extra", choices=sorted(DOWNLOADS))
    parser.add_argument("--cc", default="cc", help="the C compiler that `dev` needs (%(default)s)")
    options = parser.parse_args()
    missing = needs(options.extra, options.cc)
    if missing:
        print("\n".join(["gatelink can't be installed here:", *("  - " + need for need in missing)]), file=sys.stderr)
        return 1
    download, disk = DOWNLOADS[options.extra]
    say(
        f"making {VENV.name} with gatelink[{options.extra}]: pip downloads about {download} MB, unless it has them "
        f"already; {disk} MB on the disk"
    )
    try:
        make_venv()
        return install(options.extra)
    except KeyboardInterrupt:
        return 130


def needs(extra: str, compiler: str) -> list[str]:
    """What is missing here, each with what to do."""
    python = sys.executable
    missing = []
    if sys.version_info < OLDEST:
        missing.append(
            f"{python} is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 or newer is needed: "
            "apt-get install python3 (Debian 12 and later), or name another with make PYTHON=..."
        )
    if not sys.platform.startswith("linux"):
        missing.append(f"this is {sys.platform}, and gatelink runs on Linux")
    try:
        import ensurepip  # noqa: F401 - Debian has these two in a package of their own
        import venv  # noqa: F401
    except ImportError:
        missing.append(f"{python} cannot make a virtual environment: apt-get install python3-venv")
    for folder in (VENV, ROOT):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            missing.append(
                f"this user may not write to {folder}: use a clone of your own, or remove what another user made"
            )
    _, disk = DOWNLOADS[extra]
    if not VENV.exists() and shutil.disk_usage(ROOT).free < disk * 1_000_000:
        missing.append(f"{disk} MB are needed on the disk of {ROOT}: free some")
    if extra == "dev" and not compiles(compiler, "stdio.h"):
        missing.append(
            f"no working C compiler ({compiler}), which the compiled core and the benchmarks need: "
            "apt-get install gcc libc6-dev"
        )
    elif extra == "dev" and not compiles(compiler, "Python.h"):
        missing.append(f"no C headers of {python}, which the compiled core needs: apt-get install python3-dev")
    return missing


def compiles(compiler: str, header: str) -> bool:
    """Whether `compiler`, a command with its options, takes a C source with a header of C's or of Python's."""
    try:
        done = subprocess.run(
            [*compiler.split(), "-fsyntax-only", "-I", sysconfig.get_path("include"), "-x", "c", "-"],
            input=f"#include <{header}>\n".encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def make_venv() -> None:
    """Make .venv, unless one is there that works: with pip, and of a Python that is new enough."""
    check = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    inner = VENV / "bin" / "python"
    if not inner.exists() or subprocess.run([inner, "-c", check], stderr=subprocess.DEVNULL).returncode != 0:
        say(f"a virtual environment of {sys.executable}, Python {sys.version.split()[0]}")
        # Not venv.create(): the environment is made by another process, so that its output and its end are its own.
        run_with_progress([sys.executable, "-m", "venv", "--clear", str(VENV)], "making the virtual environment")


def install(extra: str) -> int:
    """Run pip, and say how far it is; the exit status."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--no-input", "--editable", f".[{extra}]"]
    # The tools need the compiled core. The demos run without it where it can't be built.
    os.environ["GATELINK_NATIVE"] = "1" if extra == "dev" else "auto"
    status, lines = run_with_progress(command, "starting pip")
    if status != 0:
        print("\n".join(["pip failed; the end of what it said:", *lines[-20:]]), file=sys.stderr)
        print("without a network, point pip at an index that can be reached: PIP_INDEX_URL=...", file=sys.stderr)
        return 1
    for name, stamp in STAMPS.items():
        if name == extra or extra == "dev":  # dev has all that login has
            stamp.touch()
    size = sum(path.stat().st_size for path in VENV.rglob("*") if path.is_file() and not path.is_symlink())
    downloaded = sum(map(megabytes, lines))
    say(f"the compiled core: {core()}")
    say(f"{VENV.name} is ready: {size / 1e6:.0f} MB, of which pip downloaded {downloaded:.0f} MB")
    return 0


def core() -> str:
    """Whether the compiled core is there, or why not."""
    script = "from gatelink._native import load; core, why_not = load('auto'); print('built' if core else why_not)"
    done = subprocess.run([VENV / "bin" / "python", "-c", script], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip()


def run_with_progress(command: list[str], doing: str) -> tuple[int, list[str]]:
    """Run `command` to its end, with a line every two seconds; its exit status, and the lines that it wrote."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    coming: queue.Queue[str | None] = queue.Queue()
    reading = threading.Thread(target=_read, args=(process.stdout, coming))
    reading.start()
    lines: list[str] = []
    collected = 0
    due = began + EVERY
    try:
        while True:
            try:
                line = coming.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                due = time.monotonic() + EVERY
                say(f"{doing} ({time.monotonic() - began:.0f} s)")
                continue
            if line is None:
                break
            lines.append(line.rstrip())
            collected += bool(COLLECTING.match(line))
            if line.startswith("Installing collected packages"):
                doing = f"unpacking {line.count(',') + 1} packages"
            elif match := COLLECTING.match(line) or DOWNLOADING.match(line):
                so_far = f"{collected} packages, {sum(map(megabytes, lines)):.0f} MB so far"
                doing = f"collecting {match[1].rpartition('/')[2]}; {so_far}"
        return process.wait(), lines
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        reading.join()
        process.stdout.close()


def _read(output: IO[str], coming: queue.Queue[str | None]) -> None:
    for line in output:
        coming.put(line)
    coming.put(None)


def megabytes(line: str) -> float:
    """What a line of pip's says was downloaded of a package."""
    match = DOWNLOADING.match(line)
    return float(match[2]) * UNITS[match[3]] if match and not match[1].endswith(".metadata") else 0.0


def say(text: str) -> None:
    print(f"install: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
