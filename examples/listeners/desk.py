"""The token desk at a Unix socket gives tokens to programs that may open it.

Such a program is a web site that checks passwords. One line in, a uid; one line out, its
token; then it closes. It does not speak gatelink: an accept hook hands it over.
"""

import asyncio
from typing import cast

from gatelink import MemoryTokens

LONGEST = 20  # digits of a u64
PATIENCE = 5.0  # s


class Desk(asyncio.Protocol):
    def __init__(self, tokens: MemoryTokens) -> None:
        self._tokens = tokens
        self._line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._end = asyncio.get_running_loop().call_later(PATIENCE, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._line += data
        uid, newline, _ = self._line.partition(b"\n")
        if newline and uid.isdigit():
            self._transport.write(self._tokens.issue(int(uid)).encode() + b"\n")
        if newline or len(uid) > LONGEST:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
