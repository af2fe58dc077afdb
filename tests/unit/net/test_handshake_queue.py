"""The order of handshakes: so many a second, addresses in turn, and each in the order in which it asked."""

from typing import cast

import pytest

from gatelink.config import Limits
from gatelink.net.connection import Connection
from gatelink.net.handshake_queue import HandshakeQueue
from tests.fakes import Bench, settle


class StandIn:
    """For a connection, of which the line asks only its address."""

    def __init__(self, address: str) -> None:
        self.address = address


def connections(count: int, address: str = "192.0.2.1") -> list[Connection]:
    return [cast(Connection, StandIn(address)) for _ in range(count)]


async def test_a_burst_begins_at_once_and_the_rest_in_order_at_the_rate() -> None:
    bench = Bench(Limits(handshake_rate=10, handshake_burst=3))
    line = HandshakeQueue(bench.context)
    begun: list[int] = []
    for n, connection in enumerate(connections(8)):
        line.enter(connection, lambda n=n: begun.append(n))  # type: ignore[misc]
    assert begun == [0] and len(line) == 7  # one in a turn of the loop
    await settle()
    assert begun == [0, 1, 2] and len(line) == 5
    for expected in (5, 8):
        await bench.pass_time(0.3)
        await settle()
        assert expected - 2 <= len(begun) <= expected + 1
    await bench.pass_time(0.3)
    await settle()
    assert begun == list(range(8)) and len(line) == 0


async def test_a_connection_that_left_is_passed_over_and_costs_nothing() -> None:
    bench = Bench(Limits(handshake_rate=10, handshake_burst=1))
    line = HandshakeQueue(bench.context)
    begun: list[int] = []
    many = connections(4)
    for n, connection in enumerate(many):
        line.enter(connection, lambda n=n: begun.append(n))  # type: ignore[misc]
    line.leave(many[1])
    line.leave(many[2])
    line.leave(many[2])
    assert len(line) == 1
    await bench.pass_time(0.2)
    await settle()
    assert begun == [0, 3]


async def test_a_connection_that_comes_while_others_wait_waits_behind_them() -> None:
    bench = Bench(Limits(handshake_rate=10, handshake_burst=1))
    line = HandshakeQueue(bench.context)
    begun: list[str] = []
    first, second, third = connections(3)
    line.enter(first, lambda: begun.append("first"))
    line.enter(second, lambda: begun.append("second"))
    bench.clock.advance(1)  # there would be a token for the third; the second is before it
    line.enter(third, lambda: begun.append("third"))
    assert begun == ["first"]
    bench.context.wheel.run_due()
    await bench.pass_time(0.3)
    await settle()
    assert begun == ["first", "second", "third"]


@pytest.mark.parametrize("burst", [1, 100])
async def test_others_are_heard_between_two_handshakes(burst: int) -> None:
    bench = Bench(Limits(handshake_rate=1_000, handshake_burst=burst))
    line = HandshakeQueue(bench.context)
    log: list[str] = []
    for connection in connections(1):
        line.enter(connection, lambda: log.append("handshake"))

    def begin() -> None:
        log.append("handshake")
        bench.loop.call_soon(log.append, "other")

    for connection in connections(3):
        line.enter(connection, begin)
    bench.context.wheel.run_due()
    for _ in range(10):
        bench.jump(0.2)
        await settle()
    assert log == ["handshake"] + ["handshake", "other"] * 3


@pytest.mark.parametrize("many", [["192.0.2.1"], ["2001:db8::1", "2001:db8::2"]])
async def test_addresses_take_turns_so_one_that_asks_for_many_keeps_nobody_waiting(many: list[str]) -> None:
    bench = Bench(Limits(handshake_rate=10, handshake_burst=1))
    line = HandshakeQueue(bench.context)
    begun: list[str] = []
    flood = [connection for address in many for connection in connections(50, address)]
    for connection in flood:
        line.enter(connection, lambda: begun.append("flood"))
    for address in ("192.0.2.2", "192.0.2.3", "2001:db8:0:1::1"):
        for connection in connections(1, address):
            line.enter(connection, lambda address=address: begun.append(address))  # type: ignore[misc]
    await bench.pass_time(0.8)
    await settle()
    assert begun[1:4] == ["192.0.2.2", "192.0.2.3", "2001:db8:0:1::1"]
    for connection in flood:
        line.leave(connection)
    assert len(line) == 0


async def test_addresses_that_owe_a_login_for_a_handshake_come_after_those_that_do_not() -> None:
    """A thousand addresses that ask again and again keep a newcomer waiting for one handshake, not for a thousand."""
    bench = Bench(Limits(handshake_rate=10, handshake_burst=100))
    line = HandshakeQueue(bench.context)
    begun: list[str] = []

    def ask(address: str) -> None:
        line.enter(connections(1, address)[0], lambda: begun.append(address))

    flood = [f"192.0.2.{n}" for n in range(99)]
    for address in [*flood, "198.51.100.1", *flood]:
        ask(address)
    await settle(110)
    assert begun == [*flood, "198.51.100.1"]
    begun.clear()
    ask("198.51.100.2")
    ask("198.51.100.1")
    line.clear_penalty("198.51.100.1")  # its login has succeeded
    await bench.pass_time(0.5)
    await settle()
    assert begun[:3] == ["198.51.100.2", "198.51.100.1", flood[0]]


async def test_what_is_owed_is_remembered_of_so_many_addresses() -> None:
    bench = Bench(Limits(max_addresses=10))
    line = HandshakeQueue(bench.context)
    for n in range(100):
        line.enter(connections(1, f"192.0.2.{n}")[0], lambda: None)
    await settle(110)
    assert len(line) == 0 and len(line._penalised) == 10


async def test_one_that_fails_when_it_begins_keeps_nobody_waiting() -> None:
    bench = Bench(Limits(handshake_rate=10, handshake_burst=1))
    line = HandshakeQueue(bench.context)
    begun: list[str] = []

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    bench.loop.set_exception_handler(lambda loop, context: None)
    for begin in (lambda: None, fail, lambda: begun.append("next")):
        for connection in connections(1):
            line.enter(connection, begin)
    await bench.pass_time(0.5)
    await settle()
    assert begun == ["next"]
