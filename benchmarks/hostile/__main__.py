"""What hostile clients cost the good ones, and the server.

    python -m benchmarks.hostile [--websocket] [--short]

The server has core 0 to itself. On core 1 are the attackers, which take half of it at most with lower priority, and
the good clients, which measure. The method is in benchmarks/README.md.
"""

import argparse
import os
import sys
import time
import urllib.request
from collections import Counter
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.children import Child
from benchmarks.harness import HOST, BenchmarkError, allow_files, cores, describe_environment, guarded
from benchmarks.hostile.server import LIMITS

AIM_RATIO, AIM_SECONDS = 2.0, 0.020  # hostile within twice of quiet, or 20 ms
UNVERIFIED_BYTES = 16_384  # of the server's memory that a connection may take before it is verified
LATE = 0.010  # s: if the good clients' own loop is later than that (p99), not only the server was measured
BUSY = 0.95  # of the load's core
SLOW = 1.0  # s that an attacker may be late with what it does by the clock
WAITED = 0.02  # of the time: over it, the server shared its core with something that is not of this measurement
FLOOD = 20.0  # connections a second, from which on an attack's cost is counted by connection
MIB = 2**20


class Scale(NamedTuple):
    """How many, and for how long."""

    good: int = 500
    silent: int = 5_000
    deaf: int = 1_000
    dribble: int = 500
    writes_on: int = 2_000
    quiet: float = 15.0  # s
    alone: float = 10.0  # s for each attack by itself; 0: none
    fill: float = 12.0  # s until the outboxes of those that never read are full; then all attacks are measured together
    together: float = 30.0  # s, twice
    after: float = 12.0  # s that the server has to get rid of them


FULL = Scale()
SHORT = Scale(
    good=60, silent=400, deaf=80, dribble=40, writes_on=150, quiet=3.0, alone=0.0, fill=8.0, together=5.0, after=1.0
)


class Phase(NamedTuple):
    """What was seen while these attacks were on."""

    name: str
    server: dict[str, Any]
    clients: dict[str, Any]
    attackers: dict[str, Any]
    refused: Counter[str]  # connections, by the server's reason

    def row(self) -> str:
        lag, echo, login = self.server["lag"], self.clients["echo"], self.clients["login"]
        cells = [
            self.name,
            f"{self.server['cpu']:.2f}",
            f"{self.server['waited']:.2f}",
            f"{lag['p99'] * 1_000:.1f}",
            f"{lag['longest'] * 1_000:.0f}",
            f"{echo['p50'] * 1_000:.1f}",
            f"{echo['p99'] * 1_000:.1f}",
            f"{echo['longest'] * 1_000:.0f}",
            f"{login['p99'] * 1_000:.0f}",
            f"{self.clients['refused']} of {login['count'] + self.clients['refused']}",
            f"{self.server['most_memory'] / MIB:.0f}",
            f"{sum(attack['open'] for attack in self.attackers['attacks'].values()):,}",
            f"{sum(attack['opened'] for attack in self.attackers['attacks'].values()):,.0f}",
            f"{self.attackers['cpu']:.2f}",
            f"{self.clients['cpu']:.2f}",
        ]
        return f"| {' | '.join(cells)} |"


COLUMNS = (
    "phase",
    "server CPU",
    "waited",
    "lag p99 ms",
    "longest",
    "echo p50 ms",
    "p99",
    "longest",
    "login p99 ms",
    "refused",
    "RSS MiB",
    "attackers",
    "opened/s",
    "their CPU",
    "clients' CPU",
)


class Run:
    """The three processes, and the phases that they go through."""

    def __init__(self, server: Child, clients: Child, attackers: Child, scale: Scale, websocket: bool) -> None:
        self.server = server
        self.clients = clients
        self.attackers = attackers
        self.scale = scale
        self.phases: list[Phase] = []
        self.where = server.ask("start")
        here = clients.ask("login", where=self.where, websocket=websocket, sessions=scale.good)
        if here != scale.good:
            raise BenchmarkError(f"{here} of {scale.good} good clients were verified, with nobody else there")
        many = {
            "silent": scale.silent,
            "deaf": scale.deaf,
            "dribble": scale.dribble,
            "writes_on": scale.writes_on,
        }
        self.attacks: list[str] = attackers.ask("start", where=self.where, websocket=websocket, **many)
        clients.ask("begin")
        self._refused: Counter[str] = Counter()

    def all(self) -> None:
        scale = self.scale
        self.phase("quiet", [], scale.quiet)
        for attack in self.attacks if scale.alone else ():
            self.phase(attack, [attack], scale.alone)
        self.phase("all together", self.attacks, scale.together, settle=scale.fill)
        self.phase("again", None, scale.together)
        self.phase("after", [], scale.after)
        self.phase("quiet again", None, min(scale.quiet, 5.0))

    def phase(self, name: str, attacks: list[str] | None, seconds: float, settle: float = 2.0) -> None:
        """Measures for `seconds` with these attacks on, after `settle` seconds; None: with those that are on.

        Prints the row.
        """
        if attacks is None:
            settle = 0.0
        elif not attacks:
            settle = 0.5
        print(f"{name}: {settle + seconds:.0f} s", file=sys.stderr, flush=True)
        if attacks is not None:
            self.attackers.ask("attack", names=attacks)
            time.sleep(settle)
        for child in (self.server, self.clients, self.attackers):
            child.ask("phase")
        time.sleep(seconds)
        server, clients, attackers = (child.ask("phase") for child in (self.server, self.clients, self.attackers))
        refused = self._refusals()
        phase = Phase(name, server, clients, attackers, refused - self._refused)
        self._refused = refused
        self.phases.append(phase)
        print(phase.row(), flush=True)

    def _refusals(self) -> Counter[str]:
        """What the server's metrics say."""
        with urllib.request.urlopen(f"http://{HOST}:{self.where['admin']}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return Counter(
            {
                sample.labels["reason"]: int(sample.value)
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "gatelink_refusals_total"
            }
        )


def judge(run: Run, lost: dict[str, int], timed: bool) -> bool:
    """Prints the verdicts; whether those that count are good: those of time only if `timed`."""
    phases = {phase.name: phase for phase in run.phases}
    quiet, hostile = phases["quiet"], (phases["all together"], phases["again"])
    print()
    for phase in run.phases:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in phase.refused.most_common())
        print(f"refused, {phase.name}: {reasons or 'none'}")
    print()
    print_costs(phases, hostile[1])
    print()

    bound = memory_bound(run.scale, quiet.server["memory"])
    most = [phase.server["most_memory"] for phase in hostile]
    held = {f"{what}: {count}": not count for what, count in lost.items()}
    held[f"memory {max(most) / MIB:.0f} MiB at most, within {bound / MIB:.0f}"] = max(most) <= bound
    unverified = max(phase.server["most_unverified"] for phase in run.phases)
    held[f"bytes of a connection that is not verified: {unverified:,}, within {LIMITS.max_unverified_bytes:,}"] = (
        unverified <= LIMITS.max_unverified_bytes
    )
    aims: dict[str, bool] = {}
    for what, group, key in (("loop lag", "server", "lag"), ("echo", "clients", "echo")):
        before = getattr(quiet, group)[key]["p99"]
        now = max(getattr(phase, group)[key]["p99"] for phase in hostile)
        within = now <= max(AIM_RATIO * before, AIM_SECONDS)
        aims[f"{what} p99 {before * 1_000:.1f} ms quiet, {now * 1_000:.1f} ms hostile; aim: twice, or 20 ms"] = within
    aims[f"memory {most[0] / MIB:.0f} MiB, and {most[1] / MIB:.0f} the second time"] = most[1] <= 1.1 * most[0]
    waited = max(phase.server["waited"] for phase in run.phases)
    aims[f"the server had its core for itself: it waited {waited:.1%} of the time at most"] = waited <= WAITED
    newcomers = [(phase.clients["refused"], phase.clients["login"]["count"]) for phase in hostile]
    refused, let_in = (sum(column) for column in zip(*newcomers, strict=True))
    aims[f"newcomers during the attacks: {let_in} logged in, {refused} did not get in"] = not refused
    late = max(phase.clients["lag"]["p99"] for phase in run.phases)
    aims[f"the good clients had time to measure: their own loop was {late * 1_000:.1f} ms late (p99)"] = late <= LATE
    slow = max(attack["late"] for phase in run.phases for attack in phase.attackers["attacks"].values())
    busy = max(phase.attackers["cpu"] + phase.clients["cpu"] for phase in run.phases)
    aims[f"the load was not the bottleneck: its core {busy:.0%} busy, attackers {slow:.1f} s late at most"] = (
        busy <= BUSY and slow <= SLOW
    )
    for what, good in held.items():
        print(f"{'held   ' if good else 'FAILED '} {what}")
    for what, good in aims.items():
        print(f"{'reached' if good else 'MISSED '} {what}")
    return all(held.values()) and (not timed or all(aims.values()))


def print_costs(phases: dict[str, Phase], together: Phase) -> None:
    """Prints a table of what each attack did in `together`; and what it cost the server, if it was measured alone."""
    quiet = phases["quiet"].server["cpu"]
    columns = ["attack", "open", "opened/s", "lost/s"]
    is_measured = all(name in phases for name in together.attackers["attacks"])
    if is_measured:
        columns += ["alone: opened/s", "server CPU", "us each", "together: server CPU, about"]
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for name, attack in together.attackers["attacks"].items():
        cells = [name, f"{attack['open']:,}", f"{attack['opened']:,.0f}", f"{attack['lost']:,.0f}"]
        if is_measured:
            alone = phases[name]
            opened, cpu = alone.attackers["attacks"][name]["opened"], alone.server["cpu"] - quiet
            is_flood = opened >= FLOOD  # else its cost does not come with its connections
            cells += [f"{opened:,.0f}", f"{cpu:.2f}", f"{cpu / opened * 1e6:.0f}" if is_flood else ""]
            cells.append(f"{cpu * attack['opened'] / opened if is_flood else cpu:.2f}")
        print(f"| {' | '.join(cells)} |")


def memory_bound(scale: Scale, quiet: int) -> int:
    """What the limits allow the attackers: full outboxes, unverified connections, and backlogs of clients that left."""
    queued = min(scale.deaf * (LIMITS.max_outbox_bytes + LIMITS.write_high_water), LIMITS.max_held_bytes)
    return quiet + queued + LIMITS.max_backlog_bytes + LIMITS.max_connections * UNVERIFIED_BYTES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description="Hostile clients, and good ones.")
    parser.add_argument(
        "--websocket", action="store_true", help="WebSocket's own attackers, and good clients that use it"
    )
    parser.add_argument("--short", action="store_true", help="a few of each, 35 s; judges counts, not times: for CI")
    options = parser.parse_args()
    scale = SHORT if options.short else FULL
    good = False

    def benchmark() -> None:
        nonlocal good
        server_core, load_core = cores()
        allow_files(20_000)
        os.sched_setaffinity(0, {load_core})
        print(
            f"{time.strftime('%d %B %Y')}, {'short' if options.short else 'full'} form, "
            f"{'WebSocket' if options.websocket else 'TCP'}; {describe_environment()}; "
            f"server on core {server_core}, load on core {load_core}\n",
            flush=True,
        )
        with (
            Child("benchmarks.hostile.server", server_core) as server,
            Child("benchmarks.hostile.clients", load_core) as clients,
            Child("benchmarks.hostile.attackers", load_core) as attackers,
        ):
            run = Run(server, clients, attackers, scale, options.websocket)
            print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
            run.all()
            good = judge(run, clients.ask("finish"), timed=not options.short)

    most = 120 + scale.quiet * 2 + scale.alone * 13 + scale.fill + scale.together * 2 + scale.after
    return guarded(benchmark, most) or int(not good)


if __name__ == "__main__":
    sys.exit(main())
