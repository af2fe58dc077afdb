"""Machines: network namespaces on one bridge, as `ip` makes them.

All of them are in namespaces of this process (see __main__.py), and end with it. So no name and no address is one that
the machine uses.
"""

import ipaddress
import subprocess
from pathlib import Path

NETWORK = ipaddress.ip_network("10.77.0.0/24")
NOBODY = "02:de:ad:00:00:01"
"""An Ethernet address that no machine has: what is sent there is lost without a word."""

TIMEOUT = 20.0  # s of one command


class NetworkError(Exception):
    """`ip` refused something. The text has the command, and what it said."""


class Network:
    """Machines by name, numbered from 11 in NETWORK. This process is at the first address, on the bridge itself."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._addresses = {name: str(NETWORK[11 + index]) for index, name in enumerate(names)}
        self._cut: set[tuple[str, str]] = set()
        Path("/run/netns").mkdir()  # /run is a file system of this run alone
        lines = ["link set lo up", "link add rig type bridge", f"addr add {NETWORK[1]}/24 dev rig", "link set rig up"]
        for name in names:
            lines += [
                f"netns add {name}",
                f"-n {name} link set lo up",
                f"link add {name} type veth peer name eth0 netns {name}",
                f"link set {name} master rig up",
                f"-n {name} addr add {self.address(name)}/24 dev eth0",
                f"-n {name} link set eth0 up",
            ]
        for line in lines:
            ip(*line.split())

    def address(self, machine: str) -> str:
        return self._addresses[machine]

    def ethernet(self, machine: str) -> str:
        """The Ethernet address of a machine."""
        return at(machine, "cat", "/sys/class/net/eth0/address").strip()

    def cut(self, one: str, other: str, through: str = NOBODY) -> None:
        """Lose all packets between two machines, both ways; no machine is told. through: the Ethernet address of a
        machine that gets them instead."""
        for here, there in ((one, other), (other, one)):
            ip("-n", here, *f"neigh replace {self.address(there)} lladdr {through} dev eth0 nud permanent".split())
            self._cut.add((here, there))

    def mend(self, one: str, other: str) -> None:
        """Undo `cut`."""
        for here, there in ((one, other), (other, one)):
            if (here, there) in self._cut:
                self._cut.remove((here, there))
                ip("-n", here, "neigh", "del", self.address(there), "dev", "eth0")

    def unplug(self, machine: str) -> None:
        """Take the cable out of a machine: its peers hear nothing more, no FIN and no RST."""
        ip("link", "set", machine, "down")

    def plug(self, machine: str) -> None:
        """Undo `unplug`."""
        ip("link", "set", machine, "up")

    def mend_all(self) -> None:
        for one, other in list(self._cut):
            self.mend(one, other)
        for machine in self.names:
            self.plug(machine)


def ip(*arguments: str) -> str:
    """Run `ip`. Raises NetworkError."""
    return run("ip", *arguments)


def at(machine: str, *command: str) -> str:
    """The output of a command on a machine. Raises NetworkError."""
    return run("ip", "netns", "exec", machine, *command)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout
