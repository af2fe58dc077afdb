"""The faults, by name. Each is a function of a rig that does the harm, lets time pass, and ends the harm."""

from collections.abc import Callable
from typing import NamedTuple

from tests.adversity.cluster.rig import ENDING, Rig
from tests.adversity.cluster.setup import DATABASE, GATEWAYS, LOGINS, NODES, SPARE

WINDOW = 45.0  # s: longer than a link may be without a connection
GIVING_WAY = 15  # s that a process may take to see that another one has its id
HOUR, TEN_MINUTES = 3_600.0, 600.0  # s


class Aims(NamedTuple):
    """The most seconds that this fault should cost; None: no aim."""

    refused: float | None = None
    silence: float | None = None  # the longest of any robot
    healed: float | None = None


NO_AIMS = Aims()


class Fault(NamedTuple):
    """What happens, and for how many seconds it is watched after its end."""

    name: str
    text: str
    happen: Callable[[Rig], None]
    aims: Aims
    watch: float
    prepare: Callable[[Rig], None] | None  # called before the robots come


FAULTS: dict[str, Fault] = {}


def fault(
    text: str,
    aims: Aims = NO_AIMS,
    watch: float = 15.0,
    prepare: Callable[[Rig], None] | None = None,
) -> Callable[[Callable[[Rig], None]], Callable[[Rig], None]]:
    """Decorator: the function is the fault that has its name."""

    def add(happen: Callable[[Rig], None]) -> Callable[[Rig], None]:
        name = happen.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, text, happen, aims, watch, prepare)
        return happen

    return add


def chosen(names: list[str]) -> list[Fault]:
    """The faults of these names, all without any. Raises ValueError for a name that is not one."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ValueError(f"there is no fault {', '.join(unknown)}; the faults are {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names or FAULTS]


@fault("the nats-server that leads the bucket is killed, and started 8 s later", Aims(refused=6))
def leader_killed(rig: Rig) -> None:
    leader = rig.leader()
    rig.kill(leader)
    rig.wait(8)
    rig.start(leader)


@fault("all three nats-servers are killed, and started 2 s later")
def engine_restarted(rig: Rig) -> None:
    rig.kill(*NODES)
    rig.wait(2)
    rig.start(*NODES)
    rig.leader()  # the harm is over when NATS has elected one


@fault("a login's nats-server loses the other two for 30 s", Aims(refused=10))
def node_cut_off(rig: Rig) -> None:
    node = rig.node_of(rig.random.choice(LOGINS))
    for other in NODES:
        if other != node:
            rig.network.cut(node, other)
    rig.wait(30)
    rig.network.mend_all()


@fault("two of three nats-servers are dead for 15 s", Aims(silence=2, healed=3))
def quorum_lost(rig: Rig) -> None:
    two = rig.random.sample(NODES, 2)
    rig.kill(*two)
    rig.wait(15)
    rig.start(*two)
    rig.leader()


@fault("PostgreSQL is killed, and started 5 s later")
def database_killed(rig: Rig) -> None:
    rig.kill(DATABASE)
    rig.wait(5)
    rig.start(DATABASE)


@fault("PostgreSQL stands still for 15 s")
def database_frozen(rig: Rig) -> None:
    freeze(rig, DATABASE, 15)


@fault("a login is killed, and started 3 s later")
def login_killed(rig: Rig) -> None:
    restart(rig, rig.random.choice(LOGINS))


@fault("a service is killed, and started 3 s later")
def service_killed(rig: Rig) -> None:
    restart(rig, rig.busy_lobby())


@fault("a service stands still for 15 s")
def service_frozen(rig: Rig) -> None:
    freeze(rig, rig.busy_lobby(), 15)


@fault(f"a service and a gateway lose each other for {WINDOW:g} s", Aims(silence=12))
def service_cut_off(rig: Rig) -> None:
    rig.network.cut(rig.random.choice(GATEWAYS), rig.busy_lobby())
    rig.wait(WINDOW)
    rig.network.mend_all()


@fault("a service loses all nats-servers for 30 s")
def service_without_engine(rig: Rig) -> None:
    without_engine(rig, rig.busy_lobby())


@fault("a gateway is killed, and started 3 s later", watch=30)
def gateway_killed(rig: Rig) -> None:
    restart(rig, rig.random.choice(GATEWAYS))


@fault("a gateway stands still for 25 s")
def gateway_frozen(rig: Rig) -> None:
    freeze(rig, rig.random.choice(GATEWAYS), 25)


@fault("a gateway loses all nats-servers for 30 s")
def gateway_without_engine(rig: Rig) -> None:
    without_engine(rig, rig.random.choice(GATEWAYS))


@fault("a gateway is killed, and gone for 60 s")
def gateway_gone(rig: Rig) -> None:
    gateway = rig.random.choice(GATEWAYS)
    rig.kill(gateway)
    rig.wait(60)
    rig.start(gateway)


@fault("a gateway's machine loses its network, and another takes its id 3 s later; 27 s later it is back", watch=30)
def machine_replaced(rig: Rig) -> None:
    gateway = rig.random.choice(GATEWAYS)
    old = rig.parts[gateway]
    rig.network.unplug(gateway)
    rig.wait(3)
    rig.start_at(SPARE, gateway)
    rig.wait(27)
    rig.network.plug(gateway)
    for _ in range(GIVING_WAY):
        rig.wait(1)
        if old.process.poll() is not None:
            break
    else:
        rig.say(f"the old {gateway} still runs, {GIVING_WAY} s after it is back; it is killed")
        old.process.kill()
        old.process.wait(ENDING)


@fault(
    "a gateway's clock steps an hour ahead, and stays there",
    prepare=lambda rig: rig.start_skewed(rig.random.choice(GATEWAYS), HOUR),
)
def gateway_clock_ahead(rig: Rig) -> None:
    rig.step_clock()
    rig.wait(30)


@fault(
    "a login's clock steps ten minutes back, and stays there",
    prepare=lambda rig: rig.start_skewed(rig.random.choice(LOGINS), -TEN_MINUTES),
)
def login_clock_behind(rig: Rig) -> None:
    rig.step_clock()
    rig.wait(30)


@fault("between a gateway and a service, 200 ms each way and 5 % loss for 30 s")
def slow_path(rig: Rig) -> None:
    rig.slow(rig.random.choice(GATEWAYS), rig.busy_lobby(), 0.2, 0.05)
    rig.wait(30)
    rig.network.mend_all()


def restart(rig: Rig, name: str) -> None:
    rig.kill(name)
    rig.wait(3)
    rig.start(name)


def freeze(rig: Rig, name: str, seconds: float) -> None:
    rig.freeze(name)
    rig.wait(seconds)
    rig.thaw(name)


def without_engine(rig: Rig, name: str) -> None:
    for node in NODES:
        rig.network.cut(name, node)
    rig.wait(30)
    rig.network.mend_all()
