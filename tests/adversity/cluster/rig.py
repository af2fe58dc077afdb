"""A cluster on many machines, and what can happen to it."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec

from benchmarks.harness import ROOT
from tests.adversity.cluster.network import Network, at, ip
from tests.adversity.cluster.setup import (
    ADMIN,
    CLIENTS,
    DATABASE,
    GATEWAYS,
    HTTP,
    LOBBIES,
    LOGINS,
    MACHINES,
    MONITOR,
    NODES,
    PATH,
    PLAYERS,
    Setup,
    SetupError,
)

BUCKET = "KV_gatelink"
STARTING = 90.0  # s until a part is healthy, on a slow machine
ENDING = 20.0  # s until a part that was told to end, or was killed, has ended
RESTART = 1.0  # s from the end of a part to its next start, and
NO_RESTART = 3, 78  # the statuses after which it is left alone: as deploy/systemd has them
POLL = 0.1  # s
ASKING = 2.0  # s for an answer of HTTP


T = TypeVar("T")


class Leader(msgspec.Struct, frozen=True):
    leader: str = ""


class Stream(msgspec.Struct, frozen=True):
    name: str
    cluster: Leader = Leader()


class Account(msgspec.Struct, frozen=True):
    stream_detail: list[Stream] = []


class JetStream(msgspec.Struct, frozen=True):
    """What a nats-server says at /jsz, as far as it is of use here."""

    meta_cluster: Leader = Leader()
    account_details: list[Account] = []


class RigError(Exception):
    """The rig could not be used. The text has the reason."""


class Part:
    """A process on a machine."""

    def __init__(self, name: str, machine: str, command: list[str], process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.machine = machine
        self.command = command
        self.process = process
        self.is_wanted = True  # started again when it ends by itself
        self.ended_at: float | None = None


class Rig:
    """All parts. say: called with what is worth a line. random: chooses the victims."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.network = Network(MACHINES)
        self.setup = Setup(folder, self.network.address)
        self.say = say
        self.random = Random()
        self.parts: dict[str, Part] = {}

    def up(self) -> None:
        """Start everything, and wait until all of it is healthy. Raises RigError, SetupError."""
        self.start(*NODES, DATABASE)
        self._until("the database takes connections", self._has_database)
        self.setup.migrate()
        self._until("the nats-servers have a leader", self._meta_leader)
        self.start(*LOBBIES, *GATEWAYS, *LOGINS)
        for name in (*LOBBIES, *GATEWAYS, *LOGINS):
            self._until(f"{name} is healthy", partial(self.is_healthy, name))

    @property
    def logins(self) -> dict[str, str]:
        return {name: f"http://{self.network.address(name)}:{HTTP}" for name in LOGINS}

    @property
    def gateways(self) -> list[str]:
        return [f"tcp://{self.network.address(name)}:{PLAYERS}" for name in GATEWAYS]

    @property
    def journals(self) -> list[Path]:
        """The files in which lobbies write down what they handled."""
        return sorted(self.setup.folder.glob("*.events"))

    # What a fault does.

    def start(self, *names: str) -> None:
        """Start parts on their machines."""
        for name in names:
            self._start(name, name, self.setup.command(name, name))

    def start_at(self, machine: str, name: str) -> None:
        """Start a part on another machine than its own."""
        self._start(name, machine, self.setup.command(name, machine))

    def start_skewed(self, name: str, seconds: float) -> None:
        """Restart a part, with a clock that will step by this much. `restore` gives it a true clock again."""
        self.stop(name)
        python, option, _, *arguments = self.setup.command(name, name)
        self._start(name, name, [python, option, "tests.adversity.cluster.skewed", str(seconds), *arguments])
        self._until(f"{name} is healthy", lambda: self.is_healthy(name))

    def step_clock(self) -> None:
        """Let the clock step of each part that was started for that."""
        for name, part in self.parts.items():
            if name != PATH and part.command != self.setup.command(name, name):
                part.process.send_signal(signal.SIGUSR1)

    def kill(self, *names: str) -> None:
        """Kill parts. They stay dead until they are started."""
        for name in names:
            self.parts[name].is_wanted = False
            self._signal(name, signal.SIGKILL)
        for name in names:
            self.parts[name].process.wait(ENDING)

    def stop(self, name: str) -> None:
        """End a part in order, as an operator does; kill it if it does not end."""
        part = self.parts[name]
        part.is_wanted = False
        part.process.terminate()
        try:
            part.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.say(f"{name} did not end within {ENDING:g} s of SIGTERM, and is killed")
            self.kill(name)

    def freeze(self, *names: str) -> None:
        """Stop parts where they are, as a hypervisor that pauses their machines."""
        for name in names:
            self._signal(name, signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        for name in names:
            self._signal(name, signal.SIGCONT)

    def slow(self, one: str, other: str, seconds: float, loss: float) -> None:
        """Delay packets between two machines, each way, and lose this share of them. `restore` undoes it."""
        ends = [f"{self.network.address(name)}={self.network.ethernet(name)}" for name in (one, other)]
        module = "tests.adversity.cluster.slow_path"
        seed = str(self.random.random())
        self._start(PATH, PATH, [sys.executable, "-m", module, *ends, str(seconds), str(loss), seed])
        self.wait(RESTART)
        self.network.cut(one, other, through=self.network.ethernet(PATH))

    def wait(self, seconds: float) -> None:
        """Let time pass, and start the parts again that end by themselves, as systemd does."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._look_after()
            time.sleep(min(POLL, left))

    def restore(self) -> None:
        """Undo what is left of a fault: no path is cut, and every part runs where it belongs."""
        self.network.mend_all()
        if PATH in self.parts:
            self.kill(PATH)
            del self.parts[PATH]
        for name, part in list(self.parts.items()):
            if part.process.poll() is None and part.command != self.setup.command(name, name):
                self.stop(name)
            if part.process.poll() is not None:
                self.start(name)
        for name in (*LOBBIES, *GATEWAYS, *LOGINS):
            self._until(f"{name} is healthy", partial(self.is_healthy, name))

    # What a fault asks.

    def leader(self) -> str:
        """The node that leads the cluster's bucket. Raises RigError if there is none for long."""
        return self._until("the bucket has a leader", self._leader)

    def busy_lobby(self) -> str:
        """A lobby that handles messages. After a restart all new players may be at one of the two.

        Raises RigError if there is none for long.
        """
        return self.random.choice(self._until("a lobby handles messages", self._busy_lobbies))

    def node_of(self, name: str) -> str:
        """The node to which a part is connected. Raises RigError if there is none for long."""
        return self._until(f"{name} is connected to a node", lambda: self._node_of(name))

    def is_healthy(self, name: str) -> bool:
        """Whether the part says so itself."""
        port = HTTP if name in LOGINS else ADMIN
        return get(f"http://{self.network.address(self.parts[name].machine)}:{port}/healthz") != b""

    def _start(self, name: str, machine: str, command: list[str]) -> None:
        with (self.setup.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", machine, *command],
                cwd=ROOT,
                env=self.setup.environment(name, machine),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.parts[name] = Part(name, machine, command, process)

    def _signal(self, name: str, number: signal.Signals) -> None:
        """To all processes of the part's machine: PostgreSQL has many."""
        for pid in ip("netns", "pids", self.parts[name].machine).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def _look_after(self) -> None:
        now = time.monotonic()
        for part in list(self.parts.values()):
            status = part.process.poll()
            if status is None or not part.is_wanted:
                continue
            if part.ended_at is None:
                part.ended_at = now
                self.say(f"{part.name} ended by itself, with status {status}")
                part.is_wanted = status not in NO_RESTART
            elif now - part.ended_at >= RESTART:
                self._start(part.name, part.machine, part.command)

    def _has_database(self) -> bool:
        try:
            self.setup.sql("SELECT 1")
        except SetupError:
            return False
        return True

    def _meta_leader(self) -> str:
        return majority(node.meta_cluster.leader for node in self._jetstream())

    def _leader(self) -> str:
        """The bucket's leader, if two nodes agree on it and on the leader of all: a node that has lost its majority
        believes in the old ones."""
        nodes = list(self._jetstream())
        leaders = (
            stream.cluster.leader
            for node in nodes
            for account in node.account_details
            for stream in account.stream_detail
            if stream.name == BUCKET
        )
        return majority(leaders) if majority(node.meta_cluster.leader for node in nodes) else ""

    def _jetstream(self) -> Iterator[JetStream]:
        """What each node says of its streams."""
        for node in NODES:
            url = f"http://{self.network.address(node)}:{MONITOR}/jsz?streams=1&accounts=1"
            if content := get(url):
                yield msgspec.json.decode(content, type=JetStream)

    def _busy_lobbies(self) -> list[str]:
        before = {path: path.stat().st_size for path in self.journals}
        self.wait(RESTART)
        busy = [path.name for path, size in before.items() if path.stat().st_size > size]
        return [name for name in LOBBIES if any(each.startswith(name) for each in busy)]

    def _node_of(self, name: str) -> str:
        lines = at(self.parts[name].machine, "ss", "-Htn", "state", "established", f"dport = :{CLIENTS}")
        peers = {line.split()[-1].rpartition(":")[0] for line in lines.splitlines()}
        return next((node for node in NODES if self.network.address(node) in peers), "")

    def _until(self, what: str, ask: Callable[[], T]) -> T:
        """The answer of `ask` as soon as there is one. Raises RigError."""
        deadline = time.monotonic() + STARTING
        while not (answer := ask()):
            ended = [part.name for part in self.parts.values() if part.is_wanted and part.process.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{ended[0]} ended" if ended else f"not within {STARTING:g} s"
                raise RigError(f"waited until {what}: {why}; the logs are in {self.setup.folder}")
            time.sleep(POLL)
        return answer


def majority(votes: Iterable[str]) -> str:
    """The name that two of three nodes say, "" without one."""
    return next((name for name, count in Counter(votes).items() if name and count > 1), "")


def get(url: str) -> bytes:
    """The answer to a request, empty without a good one."""
    try:
        with urllib.request.urlopen(url, timeout=ASKING) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, http.client.HTTPException):  # the latter if it ends in the middle of its answer
        return b""
