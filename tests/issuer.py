"""An OpenID Connect issuer for tests: real keys, real signatures, and its key set over HTTP on loopback."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

Key = RSAKey | ECKey | OKPKey | OctKey

NAME = "https://issuer.example"
AUDIENCE = "client-of-the-game"


@dataclass(frozen=True)
class From:
    """A time, that many seconds from when the token is made."""

    seconds: float


class _Anything(JWSRegistry):
    """Signs with every algorithm, without a warning: what an attacker would use."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


def new_key(algorithm: str, kid: str | None = None) -> Key:
    """A new private key for `algorithm`."""
    named: Any = {"kid": kid or f"{algorithm}-1"}
    if algorithm == "RS256":
        return RSAKey.generate_key(2048, named)
    if algorithm == "ES256":
        return ECKey.generate_key("P-256", named)
    return OKPKey.generate_key("Ed25519", named)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, with `changes`: None leaves a claim out, `From(seconds)` is a time from now."""
    now = int(time.time())
    found = {"iss": NAME, "aud": AUDIENCE, "sub": "player-1", "iat": From(0), "exp": From(300)} | changes
    return {
        name: now + value.seconds if isinstance(value, From) else value
        for name, value in found.items()
        if value is not None
    }


def sign(key: Key, algorithm: str, payload: dict[str, Any] | None = None, **header: Any) -> str:
    """An ID token of `payload` (default: a good one), signed with `key`."""
    head = {"alg": algorithm, "kid": key.kid} | header
    head = {name: value for name, value in head.items() if value is not None}
    found = claims() if payload is None else payload
    return jwt.encode(head, found, key, registry=_Anything(strict_check_header=False))


def jwks(*keys: Key) -> bytes:
    """The key set that has the public parts of `keys`."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


class KeyServer:
    """Serves `body` at `url`, and counts the requests. `status` and `answering` are its faults."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.status = "200 OK"
        self.headers = ""
        self.requests = 0
        self.answering = asyncio.Event()  # cleared: it takes requests and says nothing
        self.answering.set()
        self.asked = asyncio.Event()  # somebody did
        self.url = ""
        self._answers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["KeyServer"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        try:
            yield self
        finally:
            server.close()
            for answer in self._answers:
                answer.cancel()
            await asyncio.gather(*self._answers, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = asyncio.ensure_future(self._answer(reader, writer))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            self.asked.set()
            await self.answering.wait()
            head = (
                f"HTTP/1.1 {self.status}\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n{self.headers}\r\n"
            )
            writer.write(head.encode() + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client had enough
        finally:
            writer.close()
