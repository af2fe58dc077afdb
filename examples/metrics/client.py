"""Ask a hundred questions, then print the metrics of the admin port.

python -m examples.metrics.client
"""

import asyncio
import sys
from urllib.request import urlopen

from examples.metrics.server import Answer, Ask, catalog
from gatelink import ConnectError, Handlers, Session, connect

QUESTIONS = 100
handlers = Handlers(catalog)


@handlers.on(Answer)
def answer(session: Session, message: Answer) -> None:
    session.data += 1
    if session.data == QUESTIONS:
        session.close()


def scrape(admin: str) -> dict[str, float]:
    """The server's own metrics: `name{labels}` and value."""
    with urlopen(f"http://{admin}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("gatelink_"))
    return {name: float(value) for name, _, value in found}


async def main(address: str, admin: str) -> dict[str, float]:
    session = await connect(
        address, uid=7, token=f"{7:032d}", handlers=handlers, catalog=catalog
    )
    session.data = 0
    session.send(Ask(""))
    for number in range(QUESTIONS):
        session.send(Ask(f"number {number}"))
    await session.wait_closed()
    return await asyncio.to_thread(scrape, admin)


if __name__ == "__main__":
    where = sys.argv[1:] or ["tcp://127.0.0.1:7000", "127.0.0.1:9100"]
    try:
        for name, value in asyncio.run(main(*where)).items():
            print(f"{name} {value:g}")
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
