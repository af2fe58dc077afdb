"""A bare echo over WebSocket: our framing on a loop's transport, with no session, handler, limit or counter above it.

    python -m benchmarks.bare_websocket PORT

What a server of gatelink costs beyond this is gatelink's own. It ends when it is terminated.
"""

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.harness import HOST
from benchmarks.rawclient import VERIFY_SUCCEEDED, frame
from gatelink.net.websocket import SUBPROTOCOL, accept_key
from gatelink.wire.websocket import WebSocketStream

MAX_MESSAGE = 1_048_576  # bytes
VERIFIED = frame(VERIFY_SUCCEEDED)  # the load waits for it


class Bare(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.stream: WebSocketStream | None = None
        self.is_verified = False

    def data_received(self, data: bytes) -> None:
        stream = self.stream
        if stream is None:
            self.upgrade(data)
        elif payload := stream.feed(data):
            if self.is_verified:
                self.transport.write(stream.wrap(payload))
            else:
                self.is_verified = True
                self.transport.write(stream.wrap(VERIFIED))

    def upgrade(self, request: bytes) -> None:
        """Answer the request, which the load sends in one piece."""
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: %b\r\nSec-WebSocket-Accept: %b\r\n\r\n" % (SUBPROTOCOL.encode(), accept_key(key))
        )
        self.stream = WebSocketStream(MAX_MESSAGE)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Bare, HOST, port, backlog=4_096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
