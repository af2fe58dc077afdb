"""One server of the cluster under test: a gateway, or a service that echoes and has one room.

python -m benchmarks.member gateway --engine URL --id 1 --port 7000
python -m benchmarks.member service --engine URL --id 20
"""

import argparse

import uvloop

from benchmarks.echo import AskLater, AskPlain, Echo, Received, Shout, answer, answer_later
from gatelink import Limits, Session, StaticTokens, message
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.cluster.gateway import Gateway
from gatelink.cluster.membership import Membership
from gatelink.cluster.service import Service
from gatelink.ops.logs import configure
from gatelink.server import Server
from gatelink.wire.keys import ClusterKey

KEY = ClusterKey.from_hex("02" * 32)  # for benchmarks: known to everybody
ECHO_TYPE = 20
ROOM = "room"


@message(20004)
class Sit(bytes):
    """Joins the room; comes back unchanged."""


def gateway(member: Membership, port: int) -> Server:
    return Gateway(
        f"tcp://127.0.0.1:{port}", tokens=StaticTokens(), member=member, limits=Limits(max_per_address=10**6)
    )


def service(member: Membership) -> Server:
    echoing = Service("echo", type=ECHO_TYPE, member=member)

    @echoing.on(Echo)
    def echo(session: Session, message: Echo) -> None:
        session.send(message)

    echoing.on(AskPlain)(answer)
    echoing.on(AskLater)(answer_later)

    @echoing.on(Sit)
    def sit(session: Session, message: Sit) -> None:
        session.join(ROOM)
        session.send(message)

    @echoing.on(Shout)
    def shout(session: Session, message: Shout) -> None:
        echoing.broadcast_to(ROOM, Received(message))

    return echoing


async def run(kind: str, engine_url: str, id: int, port: int) -> None:
    async with NatsEngine(engine_url) as engine:
        member = Membership(engine=engine, keys=(KEY,), id=id)
        await (gateway(member, port) if kind == "gateway" else service(member)).serve()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.member")
    parser.add_argument("kind", choices=["gateway", "service"])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--id", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    configure("console", "warning")
    uvloop.run(run(options.kind, options.engine, options.id, options.port))


if __name__ == "__main__":
    main()
