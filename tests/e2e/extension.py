"""A client of bytes that speaks the extension, plain or sealed, and does nothing by itself."""

import ssl
from typing import Any, Self

from gatelink import Server
from gatelink.net.endpoints import Endpoint
from gatelink.wire.base import VERIFY_SUCCEEDED
from gatelink.wire.control import Close, Control, Features, Hello, Ping, Resumed, Ticket, control_frame, decode_control
from gatelink.wire.frames import CONTROL, Frame
from gatelink.wire.handshake import Initiator
from gatelink.wire.resume import NO_HANDSHAKE, resume, verify_resumed
from gatelink.wire.secure import SecureStream
from tests.e2e.support import CATALOG, RawClient, verify_request

BOTH = Features.RESUME | Features.PING


class ExtendedClient(RawClient):
    """After `say_hello` or `shake_hands`, what is sent and received goes through the record layer if there is one."""

    stream: SecureStream | None = None
    agreed: Hello
    handshake_hash = NO_HANDSHAKE
    ticket: Ticket

    @classmethod
    async def extended(
        cls,
        server: Server | Endpoint,
        key: bytes | None = None,
        *,
        features: int = BOTH,
        slot: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connected, and through HELLO, or HANDSHAKE with the server's `key`."""
        client = await cls.open(server, tls)
        hello = Hello(features=features, slot=slot)
        if key is None:
            client.send(control_frame(hello))
            answer = await client.control()
            assert isinstance(answer, Hello)
            client.agreed = answer
        else:
            await client.shake_hands(Initiator(key, hello))
        return client

    @classmethod
    async def logged_in(cls, server: Server | Endpoint, uid: int, key: bytes | None = None, **how: Any) -> Self:
        """Verified, with its ticket if HELLO agreed on resume."""
        client = await cls.extended(server, key, **how)
        client.send(verify_request(uid))
        frame = await client.frame()
        assert frame[0] == VERIFY_SUCCEEDED, f"answered with {frame}"
        if client.agreed.features & Features.RESUME:
            ticket = await client.control()
            assert isinstance(ticket, Ticket)
            client.ticket = ticket
        return client

    async def shake_hands(self, initiator: Initiator) -> None:
        self.send(initiator.frame)
        header = await self.reader.readexactly(4)  # no byte more: what comes behind the answer is sealed
        assert header[3] == CONTROL
        payload = await self.reader.readexactly(int.from_bytes(header[:3], "little"))
        sealing = initiator.finish(payload)
        self.agreed, self.stream, self.handshake_hash = sealing.agreed, sealing.stream, sealing.handshake_hash

    def send(self, *data: bytes) -> None:
        joined = b"".join(data)
        self.writer.write(joined if self.stream is None else self.stream.seal(joined))

    def say(self, *records: Control) -> None:
        self.send(*map(control_frame, records))

    async def control(self) -> Control | None:
        """The next frame, which is a control record."""
        _, flags, payload = await self.frame()
        assert flags == CONTROL, "a message where a control record was due"
        return decode_control(payload)

    async def message(self) -> Any:
        """The next message, decoded; the PINGs before it, which are this side's heartbeats, are passed over."""
        frame = await self.frame()
        while frame[1] == CONTROL and isinstance(decode_control(frame[2]), Ping):
            frame = await self.frame()
        return CATALOG.by_id[frame[0]].decode(frame[2])

    async def end(self) -> list[Control | Frame | None]:
        """All that comes until the server closes, control records decoded."""
        return [decode_control(body) if flags & CONTROL else (id, flags, body) for id, flags, body in await self.rest()]

    def resume(self, ticket: Ticket, received: int = 0, attempt: int = 1) -> None:
        self.say(resume(ticket.resume_key, self.handshake_hash, ticket.session_id, received, attempt))

    async def resumed(self, ticket: Ticket, attempt: int = 1) -> int:
        """RESUMED, which proves that the server knows the ticket; its count."""
        answer = await self.control()
        assert isinstance(answer, Resumed), f"answered with {answer}"
        assert verify_resumed(answer, ticket.resume_key, self.handshake_hash, ticket.session_id, attempt)
        return answer.received

    def _take(self, data: bytes) -> None:
        super()._take(data if self.stream is None else self.stream.feed(data))
        assert self.stream is None or self.stream.error is None


def closed(code: int) -> Close:
    """The CLOSE with a code, and no words."""
    return Close(code, "")
