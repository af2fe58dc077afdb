"""`python -m tests.adversity.cluster.inside PLAN`: all runs, in the namespaces that __main__.py made."""

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec

from benchmarks.children import Child
from benchmarks.harness import BenchmarkError
from tests.adversity.cluster import events
from tests.adversity.cluster.analysis import Window, analyze
from tests.adversity.cluster.faults import Fault, chosen
from tests.adversity.cluster.network import NetworkError, run
from tests.adversity.cluster.report import Run, line
from tests.adversity.cluster.rig import POLL, Rig, RigError
from tests.adversity.cluster.setup import SetupError

SETTLING = 60.0  # s until every robot is answered and nobody is refused, before a fault
FIRST = 3.0  # s at most, at random, before the fault
STOPPING = 30.0  # s

RESULTS = "results.json"


class Plan(msgspec.Struct):
    """What is to be run, and the folder for all files."""

    faults: list[str]
    seed: int
    runs: int
    robots: int
    folder: str


class Runs:
    """All runs of a plan. say: called with each line of progress."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folder = Path(plan.folder)
        self._notes: list[str] = []
        self._done: list[Run] = []
        say("the cluster starts")
        self._rig = Rig(self._folder, self._note)
        self._rig.up()

    def all(self) -> None:
        """Every fault, as often as planned. Raises what the rig raises."""
        for number in range(1, self._plan.runs + 1):
            for fault in chosen(self._plan.faults):
                say(f"{fault.name} {number}/{self._plan.runs}: {fault.text}")
                self._done.append(self._one(fault, number))
                (self._folder / RESULTS).write_bytes(msgspec.json.encode(self._done))
                say(line(self._done[-1]))

    def _one(self, fault: Fault, number: int) -> Run:
        """One run of a fault, with robots of its own."""
        rig, seed = self._rig, f"{self._plan.seed}/{fault.name}/{number}"
        rig.random = Random(seed)
        rig.restore()
        self._notes.clear()
        offsets = {path: path.stat().st_size for path in rig.journals}
        journal = self._folder / f"{fault.name}-{number}.robots"
        if fault.prepare is not None:
            fault.prepare(rig)
        began = time.monotonic()
        with Child("tests.adversity.cluster.robots") as robots:
            robots.ask(
                "start",
                logins=rig.logins,
                gateways=rig.gateways,
                robots=self._plan.robots,
                journal=str(journal),
                seed=seed,
            )
            self._settle(robots)
            rig.wait(rig.random.uniform(0, FIRST))
            robots.ask("lateness")
            start = events.now()
            fault.happen(rig)
            over = events.now()
            rig.wait(fault.watch)
            window = Window(start, over, events.now())
            late = robots.ask("lateness")
            robots.ask("stop", STOPPING)
        seen = events.read(journal)
        for path in rig.journals:
            seen += events.read(path, offsets.get(path, 0))
        return Run(
            fault=fault.name,
            seed=self._plan.seed,
            run=number,
            robots=self._plan.robots,
            seconds=time.monotonic() - began,
            late=late,
            cost=analyze(seen, window),
            notes=list(self._notes),
        )

    def _settle(self, robots: Child) -> None:
        deadline = time.monotonic() + SETTLING
        while not robots.ask("well"):
            if time.monotonic() > deadline:
                raise RigError(f"not every robot plays, or new players are refused, {SETTLING:g} s after the start")
            self._rig.wait(POLL)

    def _note(self, text: str) -> None:
        self._notes.append(text)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Exit status: 0 all was run, 1 it could not be. The results of what was run are in the folder in both cases."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    try:
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        Runs(plan).all()
    except (RigError, SetupError, NetworkError, BenchmarkError, subprocess.TimeoutExpired) as error:
        print(f"the rig failed: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
