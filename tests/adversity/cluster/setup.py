"""The files and commands of each machine, as docs/many-machines.md has them."""

import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import ROOT
from gatelink.cluster.engines.embedded import find_program
from tests.adversity.cluster.messages import JOURNAL, LOBBY
from tests.adversity.cluster.network import NETWORK
from tests.e2e.support import make_certificate
from tests.postgres import BIN, SETTINGS, reachable

NODES = ("nats1", "nats2", "nats3")
DATABASE = "database"
LOGINS = ("login1", "login2")
GATEWAYS = ("gateway1", "gateway2")
LOBBIES = ("lobby1", "lobby2")
SPARE = "spare"  # a machine where a part can go whose own is dead
PATH = "path"  # a machine that delays and loses packets
MACHINES = [*NODES, DATABASE, *LOGINS, *GATEWAYS, *LOBBIES, SPARE, PATH]

CLIENTS, ROUTES, MONITOR = 4222, 6222, 8222  # ports of NATS
PLAYERS, INNER, ADMIN, HTTP, POSTGRES = 7000, 7500, 9100, 8080, 5432
TIMEOUT = 60.0  # s that a command may take, on a slow machine
SERVICE = "tests.adversity.cluster.lobby:lobby"

CONFIG = """\
[engine]
url = "{nodes}"
user = "gatelink"
password = "env:NATS_PASSWORD"
replicas = 3

[accounts]
url = "{database}"
password = "env:ACCOUNTS_PASSWORD"

[login]
listen = "http://0.0.0.0:{http}"
key = "file:login.key"
methods = ["guest"]

[login.limits]
exempt = ["{network}"]
max_per_address = 1024

[cluster]
key = "file:cluster.key"

[gateway]
listen = ["tcp://0.0.0.0:{players}"]
count = 2
admin = "0.0.0.0:{admin}"
keys = ["file:gateway.key"]
drain_seconds = 3

[services.lobby]
type = {lobby}
run = "{service}"
count = 2
admin = "0.0.0.0:{admin}"

[limits]
exempt = ["{network}"]

[logs]
format = "json"
"""

NATS = """\
server_name: "{name}"
listen: "{address}:{clients}"
http: "{address}:{monitor}"
authorization {{ user: "gatelink", password: $NATS_PASSWORD }}
tls {{ cert_file: "{folder}/certificate.pem", key_file: "{folder}/key.pem" }}
jetstream {{ store_dir: "{folder}/store", max_file_store: 1GB }}
cluster {{
  name: "game"
  listen: "{address}:{own}"
  authorization {{ user: "route", password: $ROUTE_PASSWORD }}
  routes: [{routes}]
}}
"""


class Setup:
    """Makes the files in `folder`, and knows how an operator starts each part. address: of a machine, by its name."""

    def __init__(self, folder: Path, address: Callable[[str], str]) -> None:
        self.folder = folder
        self._address = address
        self._passwords = {name: f"p{secrets.token_hex(8)}" for name in ("nats", "route", "accounts")}
        self._database_url = f"postgresql://gatelink@{address(DATABASE)}:{POSTGRES}/accounts"
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ},
            "NATS_PASSWORD": self._passwords["nats"],
            "ROUTE_PASSWORD": self._passwords["route"],
            "ACCOUNTS_PASSWORD": self._passwords["accounts"],
            "PGPASSWORD": self._passwords["accounts"],
            "SSL_CERT_FILE": str(folder / "authorities.pem"),
        }
        self._nats()
        self._cluster()
        self._binaries, self._as_user = self._database()

    def environment(self, name: str, machine: str) -> dict[str, str]:
        """The environment of a part on a machine."""
        return {**self._environment, JOURNAL: str(self.folder / f"{name}-{machine}.events")}

    def command(self, name: str, machine: str) -> list[str]:
        """How an operator starts a part on a machine."""
        address, config = self._address(machine), str(self.folder / "cluster.toml")
        if name in NODES:
            return [str(find_program()), "-c", str(self.folder / name / "nats.conf")]
        if name == DATABASE:
            options = [f"--{key}={value}" for key, value in SETTINGS.items()]
            data = str(self.folder / "postgres" / "data")
            return [*self._as_user, str(self._binaries / "postgres"), "-D", data, "-h", "*", "-k", "", *options]
        number = int(name[-1])
        if name in LOGINS:
            return gatelink("login", "--config", config, "--admin", f"{address}:{ADMIN}")
        inner = ("--inner", f"tcp://{address}:{INNER}")
        if name in GATEWAYS:
            outer = ("--outer", f"tcp://{address}:{PLAYERS}")
            return gatelink("gateway", "--config", config, "--id", str(number), *inner, *outer)
        return gatelink("service", SERVICE, "--config", config, "--id", str(LOBBY * 1_000 + number), *inner)

    def migrate(self) -> None:
        """Make the database of accounts, when PostgreSQL runs. Raises SetupError."""
        self.sql("CREATE DATABASE accounts")
        self._run(*gatelink("accounts", "migrate", self._database_url))

    def sql(self, statement: str) -> None:
        """Have PostgreSQL do this. Raises SetupError."""
        where = ("-h", self._address(DATABASE), "-U", "gatelink", "-d", "postgres")
        self._run(str(self._binaries / "psql"), "-q", *where, "-c", statement)

    def _nats(self) -> None:
        for node in NODES:
            folder = self.folder / node
            folder.mkdir()
            make_certificate(folder, self._address(node))
            route = f"nats://route:{self._passwords['route']}@"
            routes = (f'"{route}{self._address(other)}:{ROUTES}"' for other in NODES if other != node)
            text = NATS.format(
                name=node,
                address=self._address(node),
                folder=folder,
                clients=CLIENTS,
                monitor=MONITOR,
                own=ROUTES,
                routes=", ".join(routes),
            )
            (folder / "nats.conf").write_text(text)
        authorities = (self.folder / node / "certificate.pem" for node in NODES)
        (self.folder / "authorities.pem").write_text("".join(path.read_text() for path in authorities))

    def _cluster(self) -> None:
        key = str(self.folder / "cluster.key")
        self._run(*gatelink("keys", "new", "--cluster", "--out", key))
        self._run(*gatelink("keys", "login", key, "--out", str(self.folder / "login.key")))
        self._run(*gatelink("keys", "new", "--out", str(self.folder / "gateway.key")))
        text = CONFIG.format(
            nodes=",".join(f"tls://{self._address(node)}:{CLIENTS}" for node in NODES),
            database=self._database_url,
            http=HTTP,
            network=NETWORK,
            players=PLAYERS,
            admin=ADMIN,
            lobby=LOBBY,
            service=SERVICE,
        )
        (self.folder / "cluster.toml").write_text(text)

    def _database(self) -> tuple[Path, list[str]]:
        """Where PostgreSQL's programs are, and how to run them: it refuses to be root."""
        nobody = pwd.getpwnam("nobody")
        folder = self.folder / "postgres"
        folder.mkdir()
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        as_user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        binaries = reachable(BIN, nobody.pw_uid, nobody.pw_gid, folder)
        password, data = folder / "password", folder / "data"
        password.write_text(self._passwords["accounts"])
        options = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(*as_user, str(binaries / "initdb"), *options, "-U", "gatelink", "-D", str(data), folder=folder)
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {NETWORK} scram-sha-256\n")
        return binaries, as_user

    def _run(self, *command: str, folder: Path = ROOT) -> None:
        done = subprocess.run(
            command, cwd=folder, env=self._environment, capture_output=True, text=True, timeout=TIMEOUT
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise SetupError(f"{' '.join(command)}: exit status {done.returncode}: {said}")


def gatelink(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gatelink", *arguments]


class SetupError(Exception):
    """A command that sets the rig up failed. The text has the command, and what it said."""
