"""A cluster on many machines, when parts of it fail: what each failure costs, in seconds and messages.

    python -m tests.adversity.cluster [--faults NAME...] [--runs 1] [--robots 70] [--seed 1] [--short] [--json]

As root, on Linux. Three nats-servers with TLS, PostgreSQL, two logins, two gateways and two lobbies, each in a network
namespace, set up as docs/many-machines.md says. Robots send numbered messages both ways.

Exit status: 0 every promise was kept, or this machine does not let us make namespaces; 1 a promise was broken, or the
rig failed; 2 wrong arguments.

This process makes namespaces of processes, mounts and networks, and runs inside.py in them. So nothing of the rig
outlives it, however it ends.
"""

import argparse
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.harness import ROOT, describe_environment
from tests.adversity.cluster.faults import FAULTS, chosen
from tests.adversity.cluster.inside import RESULTS, Plan
from tests.adversity.cluster.report import Run, table

LOCK = Path(tempfile.gettempdir()) / "gatelink-cluster.lock"
SHORT = ["leader-killed", "service-killed", "gateway-killed"]
SHORT_ROBOTS = 12
ISOLATED = "setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc".split()
PROBE = "mount -t tmpfs tmpfs /run && ip link add rig type bridge && ip link add one type veth peer name other"
PROGRAMS = "unshare", "setpriv", "mount", "ip", "ss"
ENDING = 20.0  # s


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.adversity.cluster",
        description="What the failures of a cluster on many machines cost.",
        epilog="faults: " + "; ".join(f"{each.name}: {each.text}" for each in FAULTS.values()),
    )
    parser.add_argument("--faults", nargs="+", default=[], metavar="NAME", help="only these, in this order (all)")
    parser.add_argument("--runs", type=int, default=1, help="of each fault (1)")
    parser.add_argument("--robots", type=int, default=70, help="players with numbered messages (70)")
    parser.add_argument("--seed", type=int, default=1, help="of the victims and moments (1)")
    parser.add_argument("--short", action="store_true", help="three faults with 12 robots: for CI")
    parser.add_argument("--json", action="store_true", help="JSON on standard output, in place of the table")
    options = parser.parse_args()
    if options.short:
        options.faults, options.robots = options.faults or SHORT, SHORT_ROBOTS
    try:
        chosen(options.faults)
    except ValueError as error:
        parser.error(str(error))
    if options.runs < 1 or options.robots < 1:
        parser.error("--runs and --robots must be 1 or more")
    if why := impossible():
        print(f"the faults of a cluster were NOT run: {why}", file=sys.stderr)
        return 0
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"another rig runs on this machine ({LOCK} is locked): two would disturb each other", file=sys.stderr)
            return 1
        return run(options)


def run(options: argparse.Namespace) -> int:
    """Run the plan, and print what came of it. The files are kept if a promise was broken or the rig failed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    print(describe_environment(), file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="gatelink-cluster-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user
    is_kept = False
    try:
        status = run_isolated(Plan(options.faults, options.seed, options.runs, options.robots, str(folder)))
        results = folder / RESULTS
        runs = msgspec.json.decode(results.read_bytes(), type=list[Run]) if results.exists() else []
        broken = [f"{each.name}: {text}" for each in runs for text in each.cost.broken()]
        print(msgspec.json.encode(runs).decode() if options.json else table(runs), flush=True)
        for text in broken:
            print(f"BROKEN {text}", file=sys.stderr)
        is_kept = bool(status or broken)
        if is_kept:
            print(f"logs and events are in {folder}", file=sys.stderr)
        return int(is_kept)
    finally:
        if not is_kept:
            shutil.rmtree(folder)


def run_isolated(plan: Plan) -> int:
    """inside.py's exit status. When this is left, all of its processes have ended."""
    command = [*ISOLATED, sys.executable, "-m", "tests.adversity.cluster.inside", msgspec.json.encode(plan).decode()]
    # In a session of its own, so that Ctrl-C reaches only this process, which ends all others together.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True) as inside:
        try:
            return inside.wait()
        except BaseException:
            end(inside)
            raise


def end(inside: subprocess.Popen[bytes]) -> None:
    """Kill `unshare` and all that it started.

    Its child is process 1 of the namespace. The kernel lets that one end after all others.
    """
    children = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text().split()
    ends = [os.pidfd_open(int(child)) for child in children]
    inside.kill()
    for each in ends:
        select.select([each], [], [], ENDING)
        os.close(each)


def impossible() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it needs root, for network namespaces"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install iproute2 util-linux"
    probe = subprocess.run([*ISOLATED, "sh", "-c", PROBE], capture_output=True, text=True, timeout=ENDING)
    if probe.returncode:
        return f"this machine does not let us make namespaces ({probe.stderr.strip()})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
