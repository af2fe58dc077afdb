"""The command line of every target: fuzz it for some seconds, or run it on files that broke it.

    python -m fuzz.fuzz_frames --seconds 60          exit status 1, and the input saved, if an input breaks it
    python -m fuzz.fuzz_frames fuzz/crashes/FILE     the same input again, in plain Python, with its traceback

The engine is atheris (libFuzzer for Python), guided by coverage. It starts with the committed seeds and with what
earlier runs on this machine found (fuzz/corpus), and takes another course every time.
"""

import argparse
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
CORPUS = HERE / "corpus"
CRASHES = HERE / "crashes"

MAX_INPUT = 1_200  # bytes; the targets' limits are below
INPUT_TIMEOUT = 10  # s that one input may take: no input may cost a server more than a moment
MEMORY = 1_024  # MiB
GRACE = 60  # s to end, when its output has

PROGRESS = re.compile(r"#(\d+)\t(?:pulse|INITED|DONE|RELOAD).*?cov: (\d+).*?corp: (\d+)")
EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
NOISE = ("#", "stat::", "INFO: Instrumenting", "WARNING: Failed to find function")
SAVED = re.compile(r"Test unit written to (\S+)")


def main(check: Callable[[bytes], None]) -> None:
    """Run a target. check: takes any bytes, and raises if the promise of its module is broken."""
    target = Path(sys.modules[check.__module__].__file__ or "").stem
    parser = argparse.ArgumentParser(prog=f"python -m fuzz.{target}", description=sys.modules[check.__module__].__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long to fuzz (default: 60)")
    parser.add_argument("inputs", type=Path, nargs="*", metavar="FILE", help="run only on these, in plain Python")
    options = parser.parse_args()
    for file in options.inputs:
        check(file.read_bytes())
        print(f"{target}: {file} holds")
    if not options.inputs:
        sys.exit(fuzz(target, options.seconds))


def fuzz(target: str, seconds: int) -> int:
    """Fuzz `target` in another process. Returns the exit status."""
    corpus = CORPUS / target
    for folder in (corpus, CRASHES):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fuzz.engine", target, str(corpus), str(SEEDS / target)]
    command += [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={INPUT_TIMEOUT}"]
    command += [f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={CRASHES}/{target}-", "-print_final_stats=1"]
    executed, saved = "0", ""
    said: deque[str] = deque(maxlen=100)  # what a crash says comes last
    with subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace") as it:
        assert it.stdout is not None
        for line in it.stdout:
            if found := PROGRESS.match(line):
                print(f"{target}: {int(found[1]):>12,} executions, coverage {found[2]}, corpus {found[3]}", flush=True)
            elif found := EXECUTED.match(line):
                executed = found[1]
            elif found := SAVED.search(line):
                saved = found[1]
            elif not line.startswith(NOISE):
                said.append(line)
        status = it.wait(GRACE)
    if status:
        print("".join(said), end="")
    print(f"{target}: {int(executed):,} executions, {'BROKEN' if status else f'nothing found in {seconds} s'}")
    if saved:
        name = Path(saved).relative_to(HERE.parent)
        print(f"{target}: again with: {Path(sys.executable).name} -m fuzz.{target} {name}")
    return 1 if status else 0
