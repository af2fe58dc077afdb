"""Get a token from the Unix socket, as a web site would, and connect to the TLS listener.

server.py says how to run both.
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path

from gatelink import ConnectError, Session, connect


async def fetch_token(folder: Path, uid: int) -> str:
    reader, writer = await asyncio.open_unix_connection(folder / "desk.sock")
    writer.write(b"%d\n" % uid)
    token = (await reader.readline()).decode().strip()
    writer.close()
    await writer.wait_closed()
    return token


async def enter(address: str, folder: Path, uid: int) -> Session:
    """A session over the TLS listener.

    A certificate of a known authority needs no `tls=`.
    """
    tls = ssl.create_default_context(cafile=folder / "certificate.pem")
    return await connect(address, uid=uid, token=await fetch_token(folder, uid), tls=tls)


async def main(address: str) -> None:
    session = await enter(address, Path(os.environ["LISTENERS"]), uid=7)
    print(f"in as {session.uid}")
    session.close()
    await session.wait_closed()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:] or ["tls://127.0.0.1:7443"]))
    except ConnectError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
