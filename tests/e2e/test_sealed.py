"""Sealed connections over real sockets (docs/protocol.md, "Encryption"): what is on the wire, and what ends them."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from noise.connection import Keypair, NoiseConnection

from gatelink import CloseCode, ConfigError, ConnectError, Handlers, Limits, Listen, ServerKey, Session, connect
from gatelink.net.connection import Connection
from gatelink.wire import noise
from gatelink.wire.control import Ack, Handshake, Hello, control_frame, decode_control, encode_control
from gatelink.wire.frames import SEALED, FrameDecoder, encode_frame
from gatelink.wire.handshake import Initiator, Responder
from gatelink.wire.noise import CipherState, HandshakeState
from gatelink.wire.secure import RESERVED_RECORDS, SecureStream
from tests.e2e.extension import BOTH, ExtendedClient, closed
from tests.e2e.support import (
    CATALOG,
    TCP,
    Blob,
    Echo,
    EchoServer,
    Note,
    RawClient,
    closing,
    frame_of,
    leave,
    make_certificate,
    neighbour,
    serving,
    token_of,
    until,
    verify_request,
    verify_succeeded,
)
from tests.fakes import extension_of

KEY = ServerKey.generate()
BIG = Limits(max_frame=5 * 1_048_576, byte_burst=5 * 1_048_576, max_outbox_bytes=16 * 1_048_576)


class Echoes:
    """A table that keeps what came back."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.blobs: asyncio.Queue[bytes] = asyncio.Queue()
        self.handlers = Handlers(CATALOG)
        self.handlers.on(Echo)(lambda session, message: self.numbers.append(message.n))
        self.handlers.on(Blob)(lambda session, message: self.blobs.put_nowait(bytes(message)))


async def dial(where: object, echoes: Echoes | None = None, key: ServerKey = KEY, **how: Any) -> Session:
    return await connect(
        str(where),
        uid=7,
        token=token_of(7).decode(),
        handlers=(echoes or Echoes()).handlers,
        catalog=CATALOG,
        server_key=key.public,
        **how,
    )


class Tap:
    """Stands between a client and a server, and keeps every byte; `change` may alter what goes up."""

    def __init__(self, server: EchoServer) -> None:
        self.up = bytearray()
        self.down = bytearray()
        self._server = server
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        while self._relays:
            await asyncio.wait(self._relays)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        there = await asyncio.open_connection(self._server.endpoint.host, self._server.endpoint.port)
        await asyncio.gather(self._pump(reader, there[1], self.up), self._pump(there[0], writer, self.down))
        self._relays.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
        try:
            while data := await reader.read(65_536):
                seen += data
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()


def records(seen: bytes) -> list[int]:
    """The lengths of the SEALED records behind the HANDSHAKE frame in `seen`; there is nothing else."""
    at = 4 + int.from_bytes(seen[:3], "little")
    lengths = []
    while at < len(seen):
        assert seen[at + 3] == SEALED
        lengths.append(int.from_bytes(seen[at : at + 3], "little"))
        at += 4 + lengths[-1]
    assert at == len(seen)
    return lengths


# -- it works, and nothing can be read on its way --


async def test_messages_of_any_size_come_back_and_no_plaintext_is_on_the_wire() -> None:
    secret = b"the secret plan: " * 20
    async with serving(keys=[KEY], sealed_only=True) as server, Tap(server) as tap:
        echoes = Echoes()
        session = await dial(tap.endpoint, echoes, resume=True)
        for body in (secret, b"", b"x", bytes(65_000) + secret):
            session.send(Blob(body))
            assert await echoes.blobs.get() == body
        assert server.session(7).outbox.sent == 4
        await leave(session)
    for seen in (bytes(tap.up), bytes(tap.down)):
        assert len(records(seen)) >= 4
        for plain in (secret[:12], token_of(7), frame_of(Blob(b""))[:6], bytes(64), b"gatelink"):
            assert plain not in seen


async def test_a_connection_may_be_sealed_within_tls(tmp_path: Path) -> None:
    certificate, private, context = make_certificate(tmp_path)
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=private)
    async with serving(listen, keys=[KEY], sealed_only=True) as server:
        echoes = Echoes()
        session = await dial(server.endpoint, echoes, tls=context, resume=True)
        session.send(Blob(bytes(90_000)))
        assert await echoes.blobs.get() == bytes(90_000)
        await leave(session)


@pytest.mark.parametrize("size", [100_000, 4 * 1_048_576])
async def test_a_message_larger_than_a_record_spans_several(size: int) -> None:
    body = secrets.token_bytes(size)
    async with serving(keys=[KEY], limits=BIG) as server:
        for resume in (False, True):
            echoes = Echoes()
            session = await dial(server.endpoint, echoes, resume=resume, limits=BIG)
            for _ in range(2):
                session.send(Blob(body))
            for _ in range(2):
                assert await echoes.blobs.get() == body
            await leave(session)


async def test_a_burst_of_replies_is_one_record() -> None:
    async with serving(keys=[KEY]) as server:
        records = []
        for uid in range(7, 12):  # a busy machine may read one of the bursts in two parts
            async with closing(ExtendedClient.logged_in(server, uid, KEY.public)) as client:
                stream: Any = client.stream
                client.send(*[frame_of(Echo(n)) for n in range(16)])
                before = stream.records
                for n in range(16):
                    assert await client.message() == Echo(n)
                records.append(stream.records - before)
        assert min(records) == 1


class NoiseClient(RawClient):
    """A client that anybody could write from docs/protocol.md, with the independent `noiseprotocol` library."""

    async def seal(self, key: bytes) -> bytes:
        """Shakes hands; the server's payload, its HELLO."""
        self.noise = NoiseConnection.from_name(b"Noise_NK_25519_AESGCM_SHA256")
        self.noise.set_as_initiator()
        fields = bytes([1]) + noise.key_id(key) + bytes(16)
        self.noise.set_prologue(b"gatelink/1" + fields)
        self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, key)
        self.noise.start_handshake()
        hello = b"\x01\x01" + (2).to_bytes(8, "little") + b"\x00"
        payload = b"\x02" + fields + bytes(self.noise.write_message(hello))
        self.writer.write(len(payload).to_bytes(3, "little") + b"\x80" + payload)
        answer = await self.payload(0x80)
        assert answer[0] == 2
        return bytes(self.noise.read_message(answer[1:]))

    async def payload(self, flags: int) -> bytes:
        header = await self.reader.readexactly(4)
        assert header[3] == flags
        return await self.reader.readexactly(int.from_bytes(header[:3], "little"))

    def send(self, *data: bytes) -> None:
        record = bytes(self.noise.encrypt(b"".join(data)))
        self.writer.write(len(record).to_bytes(3, "little") + b"\x04" + record)

    async def frame(self) -> Any:
        if not self._frames:
            self._take(bytes(self.noise.decrypt(await self.payload(0x04))))
        return self._frames.pop(0)


async def test_a_client_of_another_noise_library_is_a_client() -> None:
    async with serving(keys=[KEY], sealed_only=True) as server:
        client = await NoiseClient.open(server)
        assert await client.seal(KEY.public) == b"\x01\x01" + (2).to_bytes(8, "little") + b"\x00"
        client.send(verify_request(7))
        assert (await client.frame())[0] == 2
        for n in range(20):
            await client.echo(n)
        client.send(frame_of(Echo(1))[:5])  # a frame may span records
        client.send(frame_of(Echo(1))[5:] + frame_of(Echo(2)))  # and records hold several
        assert [await client.message(), await client.message()] == [Echo(1), Echo(2)]
        await client.close()


# -- clients that may enter --


@pytest.mark.parametrize("data", [verify_request(7), control_frame(Hello(features=BOTH))], ids=["login", "hello"])
async def test_a_server_that_requires_sealing_refuses_plain_without_a_word(data: bytes) -> None:
    async with serving(keys=[KEY], sealed_only=True) as server, closing(RawClient.open(server)) as client:
        client.send(data)
        assert await client.reader.read() == b""
        assert server.stats.refused == {"wrong-first-message": 1}


async def test_plain_and_sealed_live_side_by_side_where_sealing_is_not_required() -> None:
    async with serving(keys=[KEY]) as server:
        plain = await RawClient.verified(server, 8)
        sealed = await ExtendedClient.logged_in(server, 7, KEY.public)
        for client in (plain, sealed):
            await client.echo(1)
            await client.close()


async def test_a_server_that_requires_sealing_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="sealed_only without a key"):
        EchoServer(sealed_only=True)


async def test_an_unknown_key_closes_without_a_word() -> None:
    async with serving(keys=[KEY]) as server, neighbour(server):
        client = await RawClient.open(server)
        client.send(Initiator(ServerKey.generate().public, Hello()).frame)
        assert await client.reader.read() == b""
        await client.close()


async def test_a_handshake_for_a_server_without_keys_closes_without_a_word() -> None:
    async with serving() as server, closing(RawClient.open(server)) as client:
        client.send(Initiator(KEY.public, Hello()).frame)
        assert await client.reader.read() == b""


async def test_while_keys_are_changed_clients_of_both_are_served() -> None:
    newer = ServerKey.generate()
    async with serving(keys=[newer, KEY]) as server:
        assert server.public_key == newer.public
        for key in (KEY, newer):
            client = await ExtendedClient.logged_in(server, 7, key.public)
            await client.echo(1)
            await client.close()


async def test_until_verified_records_are_small() -> None:
    for size, refused in ((1_101, True), (1_100, False)):
        async with serving(keys=[KEY]) as server:
            client = await ExtendedClient.extended(server, KEY.public)
            client.writer.write(size.to_bytes(3, "little") + b"\x04" + bytes(20))
            if not refused:
                await client.close()
            assert await client.end() == ([closed(CloseCode.FRAME_TOO_LARGE)] if refused else [])
            await until(lambda: server.stats.refused)
            assert server.stats.refused == {"frame-too-large" if refused else "left-unverified": 1}
            await client.close()


async def test_until_verified_frames_in_records_are_small_too() -> None:
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.extended(server, KEY.public)) as client:
        client.send(encode_frame(1, bytes(1_023)))
        assert await client.end() == [closed(CloseCode.FRAME_TOO_LARGE)]
        assert server.stats.refused == {"frame-too-large": 1}


async def test_verified_records_may_be_as_large_as_noise_allows() -> None:
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client:
        assert client.stream is not None
        client.writer.write(client.stream._seal_record(frame_of(Blob(bytes(65_519 - 6)))))
        assert await client.control() == Ack(1)
        assert await client.message() == Blob(bytes(65_519 - 6))


async def test_what_stands_behind_a_handshake_is_refused() -> None:
    """It could not be sealed: the answer is not there yet."""
    async with serving(keys=[KEY]) as server, closing(RawClient.open(server)) as client:
        client.send(Initiator(KEY.public, Hello()).frame, verify_request(7))
        assert await client.reader.read() == b""


# -- what ends it --

UNSEALED = {
    "message": frame_of(Note(1)),
    "control": control_frame(Hello()),
    "handshake": Initiator(KEY.public, Hello()).frame,
    "empty record": bytes([16, 0, 0, 4]) + bytes(16),
    "flags 05": bytes([20, 0, 0, 5]) + bytes(20),
}


@pytest.mark.parametrize("data", UNSEALED.values(), ids=UNSEALED)
async def test_anything_unsealed_after_the_handshake_is_a_protocol_error(data: bytes) -> None:
    async with serving(keys=[KEY]) as server, neighbour(server):
        early = await ExtendedClient.extended(server, KEY.public)
        early.writer.write(data)
        assert await early.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        client.writer.write(data)
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.ended == [(7, CloseCode.PROTOCOL_ERROR)] and server.notes == []
        for one in (early, client):
            await one.close()


@pytest.mark.parametrize("bit", [0, 8, 24, 31, 32, 100, 159, 160, 200, -1])
async def test_a_flipped_bit_closes_and_delivers_nothing(bit: int) -> None:
    """In the length, the flags, the ciphertext, the tag."""
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client:
        assert client.stream is not None
        record = bytearray(client.stream.seal(frame_of(Note(1)) * 3))
        bit %= 8 * len(record)
        record[bit // 8] ^= 1 << bit % 8
        client.writer.write(bytes(record) + client.stream.seal(frame_of(Note(2)) * 3) + bytes(400))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.notes == [] and server.ended == [(7, CloseCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("turn_frames", [1, 4, 100])
@pytest.mark.parametrize("first", [0, 1, 3, 4, 5, 8, 9])
async def test_a_bad_record_closes_however_many_messages_stand_before_it_in_a_read(
    first: int, turn_frames: int
) -> None:
    """The messages before it are handled first, in as many turns of the loop as they need."""
    async with (
        serving(keys=[KEY], limits=Limits(turn_frames=turn_frames)) as server,
        closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client,
    ):
        stream: Any = client.stream
        good = stream.seal(b"".join(frame_of(Note(n)) for n in range(first)))
        client.writer.write(good + len(good).to_bytes(3, "little") + b"\x05" + bytes(20))
        assert (await client.end())[-1] == closed(CloseCode.PROTOCOL_ERROR)
        assert server.notes == [(7, n) for n in range(first)] and server.ended == [(7, CloseCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("how", ["replayed", "reordered", "missing"])
async def test_records_come_once_and_in_order_or_it_closes(how: str) -> None:
    async with serving(keys=[KEY]) as server, closing(ExtendedClient.logged_in(server, 7, KEY.public)) as client:
        assert client.stream is not None
        first, second, third = (client.stream.seal(frame_of(Note(n))) for n in range(3))
        sent = {"replayed": (first, first), "reordered": (first, third, second), "missing": (first, third)}[how]
        client.writer.write(b"".join(sent))
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.notes == [(7, 0)]


async def test_a_record_of_another_connection_is_nothing_here() -> None:
    async with serving(keys=[KEY]) as server:
        one = await ExtendedClient.logged_in(server, 7, KEY.public)
        other = await ExtendedClient.logged_in(server, 8, KEY.public)
        assert one.stream is not None
        other.writer.write(one.stream.seal(frame_of(Note(1))))
        assert await other.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.notes == []
        for client in (one, other):
            await client.close()


class Recording(ExtendedClient):
    """Keeps the bytes that came."""

    came = b""

    def _take(self, data: bytes) -> None:
        self.came += data
        super()._take(data)


async def test_our_own_record_sent_back_to_us_is_refused() -> None:
    async with serving(keys=[KEY]) as server, closing(Recording.logged_in(server, 7, KEY.public)) as client:
        client.came = b""
        server.session(7).send(Note(1))
        assert await client.message() == Note(1)
        client.writer.write(client.came)
        assert await client.end() == [closed(CloseCode.PROTOCOL_ERROR)]
        assert server.ended == [(7, CloseCode.PROTOCOL_ERROR)] and server.notes == []


async def test_a_connection_whose_key_is_used_up_gives_way_to_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    split = HandshakeState.split
    ends = 0  # of the first connection, whose server has sealed almost all records that it may

    def nearly_used_up(handshake: HandshakeState) -> tuple[CipherState, CipherState]:
        nonlocal ends
        send, receive = split(handshake)
        ends += 1
        if ends <= 2:  # the answer to the login is one record, and the next is the last
            (receive if handshake.initiator else send).n = 2**32 - RESERVED_RECORDS - 2
        return send, receive

    monkeypatch.setattr(HandshakeState, "split", nearly_used_up)
    async with serving(keys=[KEY]) as server:
        echoes = Echoes()
        session = await dial(server.endpoint, echoes, resume=True)
        other = server.session(7)
        session.send(Echo(0))
        await until(lambda: extension_of(other).attempt)
        session.send(Echo(1))
        await until(lambda: len(echoes.numbers) == 2)
        assert echoes.numbers == [0, 1]
        assert session.close_code is None and other.close_code is None
        await leave(session)


# -- the client's side --


async def test_a_client_with_a_key_refuses_a_server_with_another() -> None:
    async with serving(keys=[ServerKey.generate()]) as server:
        with pytest.raises(ConnectError, match="closed the connection before it verified us"):
            await dial(server.endpoint)
        assert server.stats.verified == 0


class Impostor:
    """Listens where the server should, hears a client's HANDSHAKE, and says `answer`."""

    def __init__(self, *answer: bytes) -> None:
        self._answer = answer
        self.heard = bytearray()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.read(65_536)
        for part in self.answers(bytes(self.heard)):
            writer.write(part)
        try:
            while data := await reader.read(65_536):
                self.heard += data
        except ConnectionError:
            pass
        writer.close()

    def answers(self, frame: bytes) -> tuple[bytes, ...]:
        return self._answer


DOWNGRADES = {
    "plain success": (verify_succeeded(7),),
    "plain success and messages": (verify_succeeded(7), frame_of(Echo(1)), frame_of(Echo(2))),
    "plain hello": (control_frame(Hello()), verify_succeeded(7)),
    "plain failure": (encode_frame(3, b""),),
    "garbage": (b"\x00" * 100,),
    "a made up answer": (bytes([49, 0, 0, 0x80, 2]) + bytes(48), bytes([49, 0, 0, 0x80, 2]) + bytes(48)),
}


@pytest.mark.parametrize("answer", DOWNGRADES.values(), ids=DOWNGRADES)
async def test_a_client_with_a_key_never_speaks_plain(answer: tuple[bytes, ...]) -> None:
    async with Impostor(*answer) as impostor:
        with pytest.raises(ConnectError):
            await dial(impostor.endpoint)
        ((_, _, payload),) = FrameDecoder(2_000).feed(bytes(impostor.heard))
        assert isinstance(decode_control(payload), Handshake), "and nothing else was said"


class HalfHonest(Impostor):
    """Holds the key, and says something behind its answer, before it was asked anything."""

    def answers(self, frame: bytes) -> tuple[bytes, ...]:
        ((_, _, payload),) = FrameDecoder(2_000).feed(frame)
        record = decode_control(payload)
        assert isinstance(record, Handshake)
        sealing = Responder([KEY]).respond(record, BOTH)
        return (sealing.answer + b"".join(map(sealing.stream.seal, self._answer)),)


@pytest.mark.parametrize(
    "said",
    [verify_succeeded(7), b"\xff" * 40, control_frame(Hello()), encode_control(Hello())],
    ids=["success", "garbage", "hello", "no frame"],
)
async def test_a_verdict_that_nobody_asked_for_is_no_verdict(said: bytes) -> None:
    async with HalfHonest(said) as impostor:
        with pytest.raises(ConnectError):
            await dial(impostor.endpoint)


async def test_a_key_that_is_no_point_of_the_curve_fails_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` refuses it; the handshake does, too."""

    class NoKey:
        public = bytes(32)

    async with serving(keys=[KEY]) as server:
        with pytest.raises(ConfigError, match="it is all zeros"):
            await dial(server.endpoint, key=NoKey())  # type: ignore[arg-type]
        assert not server.connections
        monkeypatch.setattr("gatelink.net.client.check_public_key", lambda key: None)
        with pytest.raises(ConnectError, match="not usable"):
            await dial(server.endpoint, key=NoKey())  # type: ignore[arg-type]
        await until(lambda: not server.connections)


@pytest.mark.parametrize("key", [0, 1])
async def test_what_is_sent_in_the_middle_of_a_seal_follows_what_is_sealed(
    key: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the handler of a signal. key: of the last message; with one, the compiled core queues otherwise."""
    interrupts: list[Callable[[], None]] = []

    class Interrupted:
        def __init__(self, key: bytes) -> None:
            self._own = AESGCM(key)
            self.decrypt, self.decrypt_into = self._own.decrypt, self._own.decrypt_into

        def encrypt(self, nonce: Any, data: Any, associated: Any) -> bytes:
            self.interrupt()
            return self._own.encrypt(nonce, data, associated)

        def encrypt_into(self, nonce: Any, data: Any, associated: Any, out: Any) -> int:
            self.interrupt()
            return self._own.encrypt_into(nonce, data, associated, out)

        def interrupt(self) -> None:
            while interrupts:
                interrupts.pop()()

    monkeypatch.setattr(noise, "AESGCM", Interrupted)
    echoes = Echoes()
    async with serving(TCP, keys=[KEY]) as server:
        client = await dial(server.endpoint, echoes)
        session = server.sessions.get(7)
        assert session is not None
        sent = [bytes([n]) * 100 for n in range(200)]

        def send(bodies: list[bytes], key: int = 0) -> None:
            for body in bodies:
                session.send(Blob(body), key=key)

        send(sent[:10])
        interrupts += [lambda: send(sent[199:], key), lambda: send(sent[10:199])]
        assert [await echoes.blobs.get() for _ in sent] == sent and not interrupts
        await leave(client)


async def test_one_write_is_one_seal() -> None:
    """Whatever the connection is told to write at once is one record, up to what a record holds."""
    written: list[bytes] = []

    class Transport:
        def write(self, data: bytes) -> None:
            written.append(data)

    connection = Connection(FrameDecoder(1_000), lambda connection: None)
    connection.transport = Transport()  # type: ignore[assignment]
    ours, theirs = (noise.CipherState(bytes(32)) for _ in range(2))
    connection.seal(SecureStream(ours, theirs))
    connection.write(b"a" * 16_384)
    connection.write(b"b" * 16_385)
    connection.write(b"")
    assert [len(data) for data in written] == [4 + 16_400, 4 + 16_400 + 4 + 17, 0]


async def test_what_comes_after_our_close_is_thrown_away_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it would cost as much as it did before, and nobody counts it against a rate any more."""
    made: list[SecureStream] = []

    def noted(*arguments: Any) -> SecureStream:
        made.append(SecureStream(*arguments))
        return made[-1]

    monkeypatch.setattr("gatelink.wire.handshake.SecureStream", noted)
    async with serving(keys=[KEY]) as server:
        client = await ExtendedClient.logged_in(server, 7, KEY.public)
        (stream,) = (stream for stream in made if stream is not client.stream)
        session = server.session(7)
        session.kick()
        assert await client.control() == closed(CloseCode.KICKED)
        before = stream.records
        client.send(frame_of(Echo(1)) * 1_000)
        await client.close()
        await session.wait_closed()
        assert stream.records == before


@pytest.mark.parametrize("listen", [Listen(endpoint=TCP), Listen(endpoint=TCP, accept=lambda connection: True)])
@pytest.mark.parametrize("end", ["close", "cut"])
async def test_a_connection_that_has_ended_has_no_ciphers(
    monkeypatch: pytest.MonkeyPatch, listen: Listen, end: str
) -> None:
    monkeypatch.setattr("gatelink.session.ciphers.IDLE", 1e6)  # what is idle keeps them here
    alive: WeakSet[Any] = WeakSet()

    class Watched:
        """A cipher that tells when it is gone."""

        def __init__(self, key: bytes) -> None:
            self._cipher = AESGCM(key)
            alive.add(self)

        def encrypt(self, *arguments: Any) -> bytes:
            return self._cipher.encrypt(*arguments)

        def decrypt(self, *arguments: Any) -> bytes:
            return self._cipher.decrypt(*arguments)

        def encrypt_into(self, *arguments: Any) -> int:
            return self._cipher.encrypt_into(*arguments)

        def decrypt_into(self, *arguments: Any) -> int:
            return self._cipher.decrypt_into(*arguments)

    monkeypatch.setattr("gatelink.wire.noise.AESGCM", Watched)
    async with serving(listen, keys=[KEY]) as server:
        echoes = Echoes()
        session = await dial(server.endpoint, echoes)
        session.send(Blob(b"sealed"))
        assert await echoes.blobs.get() == b"sealed"
        assert alive
        if end == "close":
            session.close()
        else:
            session.abort()
        await until(lambda: not server.connections)
        await until(lambda: not alive)
