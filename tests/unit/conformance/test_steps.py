"""Steps of the kit that a client passes whenever it does what is due."""

import sys

import pytest

from tests.conformance.runs import assert_all_passed, conform

CLIENT = """
import asyncio, random, time
from examples.conformance import driver
from gatelink.net.dialer import Dialer

{}

asyncio.run(driver.main())
"""

LEAVES_AT_ONCE = """
random.uniform = lambda least, most: least
read = asyncio.StreamReader.readline

async def late(self):
    line = await read(self)
    if b'"send"' in line:
        await asyncio.sleep(0.5)
    return line

asyncio.StreamReader.readline = late
"""
"""And it is told to send something when it has left."""

LEAVES_LATE = "random.uniform = lambda least, most: most"
STANDS_STILL = """
log_in = Dialer._log_in

def late(self, connection):
    time.sleep(0.5)
    log_in(self, connection)

Dialer._log_in = late
"""


@pytest.mark.parametrize(
    ("how", "step"),
    [(LEAVES_AT_ONCE, "goaway-in-time"), (LEAVES_LATE, "goaway-in-time"), (STANDS_STILL, "half-close")],
    ids=["leaves at once", "leaves late", "stands still as it logs in"],
)
async def test_a_client_passes_whatever_time_of_its_own_it_takes(how: str, step: str) -> None:
    assert_all_passed(await conform([sys.executable, "-c", CLIENT.format(how)], [step]))
