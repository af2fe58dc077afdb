"""Write the first inputs for fuzzing, fuzz/seeds/TARGET/NAME: `python -m fuzz.make_seeds`.

An input that broke a target once stays a seed: it is added to `BROKE`, by name.
"""

import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.struct_pb2 import Value

from fuzz import fuzz_bodies, fuzz_envelope, fuzz_handshake
from fuzz.fuzz_secure import Step
from fuzz.harness import SEEDS
from gatelink.errors import RequestCode
from gatelink.net.proxy_header import SIGNATURE
from gatelink.session.requests import failed_frame
from gatelink.wire import control, envelope
from gatelink.wire.body import compress
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, encode_control_frame, encode_frame, tagged
from gatelink.wire.messages import MessageType
from gatelink.wire.noise import HandshakeState, Pattern, prologue
from gatelink.wire.websocket import mask

Inputs = dict[str, bytes]

BASE = Path(__file__).parents[1] / "tests" / "vectors" / "base.jsonl"
BROKE: dict[str, Inputs] = {}

RECORDS: dict[str, control.Control] = {
    "hello": control.Hello(features=3),
    "hello-keys": control.Hello(1, 3, 2, "1.0"),
    "ticket": control.Ticket(bytes(16), bytes(32), 120, "tcp://a:1"),
    "resume": control.Resume(bytes(16), 5, 1, bytes(32)),
    "resumed": control.Resumed(5, bytes(32)),
    "ping": control.Ping(1, 2),
    "pong": control.Pong(1, 2, 3),
    "ack": control.Ack(1),
    "close": control.Close(4000, "bye"),
    "goaway": control.GoAway(1_000, "tcp://a:1"),
    "renew": control.Renew("token"),
    "renewed": control.Renewed(0, 3600),
    "expiring": control.Expiring(60),
    "handshake-answer": control.HandshakeAnswer(bytes(48)),
}


def frames() -> Inputs:
    lines = [json.loads(line) for line in BASE.read_text("utf-8").splitlines()]
    base = {f"{line['name']}-{line['flags']}": bytes.fromhex(line["frame"]) for line in reversed(lines)}
    extended = b"".join(encode_control_frame(control.encode_control(record)) for record in RECORDS.values())
    errors = {"flags": b"\2\0\0\x08\4\0", "sealed": b"\1\0\0\4", "id-0": b"\2\0\0\0\0\0", "length": b"\x65\0\0\0"}
    asked = {
        "request": tagged(encode_frame(11_001, b"abc"), 5 << 16, REQUEST),
        "answer": tagged(encode_frame(11_001, b"abc", 3), 0x0005_0312, ANSWER),
        "failed": failed_frame(11_001, 5 << 16, RequestCode.REFUSED, 2**32 - 1, "full"),
        "failed-here": failed_frame(11_001, 1 << 24, RequestCode.TIMEOUT, 4, "uvl"),
        "failed-part": encode_frame(11_001, bytes(11), FAILED),
        "request-part": encode_frame(11_001, bytes(3), REQUEST),
    }
    return base | {"all": b"".join(base.values()), "control": extended} | errors | asked


def controls() -> Inputs:
    unknown = struct.pack("<BBQB", 1, 2, 1 << 63, 1) + struct.pack("<BH", 200, 2) + b"ab"
    found = {name: control.encode_control(record) for name, record in RECORDS.items()}
    return found | {"hello-unknown": unknown, "handshake": first_handshake(Pattern.NK), "ignored": b"\xc8"}


def first_handshake(pattern: Pattern) -> bytes:
    """A HANDSHAKE that the target's responder answers."""
    fields = fuzz_handshake.fields_of(pattern)
    state = HandshakeState(
        pattern,
        True,
        prologue(fields),
        rs=fuzz_handshake.SERVER_KEY.public,
        psk=fuzz_handshake.CLUSTER_KEY.psk,
        e=X25519PrivateKey.from_private_bytes(bytes([3]) * 32),
    )
    return bytes([control.ControlType.HANDSHAKE]) + fields + state.write_message(hello())


def hello() -> bytes:
    return control.encode_control(fuzz_handshake.HELLO)


def handshakes() -> Inputs:
    inputs = {}
    for pattern, bit in ((Pattern.NK, 0), (Pattern.NNPSK0, fuzz_handshake.NNPSK0)):
        name = pattern.name.lower()
        inputs[f"{name}-first"] = bytes([bit]) + first_handshake(pattern)
        inputs[f"{name}-hello"] = bytes([bit | fuzz_handshake.AUTHENTIC]) + hello()
        inputs[f"{name}-answer"] = bytes([bit | fuzz_handshake.INITIATOR, control.ControlType.HANDSHAKE]) + bytes(59)
        inputs[f"{name}-answer-hello"] = bytes([bit | fuzz_handshake.INITIATOR | fuzz_handshake.AUTHENTIC]) + hello()
    return inputs


def scripts() -> Inputs:
    one, two = [Step.PASS, 1], [Step.PASS, 180]
    return {
        "in-order": bytes(one + two + one),
        "lost": bytes(one + [Step.LOSE, 9] + two),
        "repeated": bytes(one + two + [Step.REPEAT, 0]),
        "cut": bytes(one + [Step.CUT, 20]),
        "cut-and-more": bytes([Step.CUT, 20] + one),
        "changed": bytes(one + [Step.CHANGE, 7, 128] + two),
        "too-large": bytes(one + [Step.PASS, 255]),
        "made-up": bytes(one + [Step.MAKE_UP, 5]) + b"\x11\0\0\4x",
        "plain": bytes(one + [Step.MAKE_UP, 6]) + b"\2\0\0\0\4\0",
    }


def bodies() -> Inputs:
    tree = fuzz_bodies.Tree("a", {"b": [1, -2]}, [fuzz_bodies.Tree("c", {}, [])], 0.5)
    json_tree = fuzz_bodies.JsonTree("é", {"b": [1]}, [fuzz_bodies.JsonTree("c", {}, [])], -1e300)
    everything = fuzz_bodies.Everything(True, 255, "é", -1, 0.5, 1e300, b"\xff", 2**64 - 1)
    value = Value()
    value.list_value.values.add().struct_value.fields["a"].string_value = "b"
    inputs: Inputs = {}
    for message in (everything, tree, json_tree, value):
        kind, body = fuzz_bodies.CATALOG.encode(message)
        inputs |= {f"{kind.name}-{flags}": body_input(kind, flags, body) for flags in (0, 1)}
    for kind in fuzz_bodies.KINDS[:2]:
        inputs[kind.name] = body_input(kind, 0, bytes(19))
    inputs["copies"] = body_input(fuzz_bodies.KINDS[0], 1, bytes(500))
    inputs["too-large"] = body_input(fuzz_bodies.KINDS[0], 1, bytes(501))
    inputs["scrambled"] = body_input(fuzz_bodies.KINDS[0], 2, bytes(60))
    return inputs


def body_input(kind: MessageType, flags: int, body: bytes) -> bytes:
    return bytes([flags, fuzz_bodies.KINDS.index(kind)]) + (compress(body) if flags & 1 else body)


def proxies() -> Inputs:
    def header(command: int, family: int, block: bytes) -> bytes:
        return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block

    return {
        "tcp4": header(0x21, 0x11, bytes(range(12))),
        "tcp4-tlv": header(0x21, 0x11, bytes(range(12)) + b"\x04\0\x02ab") + b"behind",
        "tcp6": header(0x21, 0x21, bytes(range(36))),
        "unix": header(0x21, 0x31, bytes(216)),
        "unspecified": header(0x21, 0x00, b""),
        "local": header(0x20, 0x00, b""),
        "part": SIGNATURE[:7],
        "version-1": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "version-1-tcp6": b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 65535 0\r\nbehind",
        "version-1-unknown": b"PROXY UNKNOWN and more\r\n",
        "version-1-part": b"PROXY TCP4 10.0.0.1\r",
        "command": header(0x22, 0x11, bytes(12)),
        "too-large": SIGNATURE + b"\x21\x11\x03\xf1",
    }


def websockets() -> Inputs:
    key = b"\1\2\3\4"

    def frame(first: int, payload: bytes) -> bytes:
        return bytes([first, 0x80 | len(payload)]) + key + mask(payload, key)

    return {
        "binary": frame(0x82, b"abc"),
        "two": frame(0x82, b"abcdefgh") * 2,
        "fragments": frame(0x02, b"a") + frame(0x89, b"ping") + frame(0x00, b"") + frame(0x80, b"bc"),
        "text": frame(0x81, b"abc"),
        "compressed": frame(0xC2, b"abc"),
        "close": frame(0x88, b"\x0f\xa0bye"),
        "close-half": frame(0x88, b"\x0f"),
        "close-utf8": frame(0x88, b"\x03\xe8\xff"),
        "too-large": b"\x82\xfe\xff\xff" + key,
        "long": b"\x82\xff" + bytes(7) + b"\x80" + key + bytes(128),
        "server": b"\x82\x03abc\x82\x7e\x00\x80" + bytes(128),
        "unmasked": b"\x82\x03abc",
    }


def envelopes() -> Inputs:
    frame = encode_frame(12_001, b"abc", 3)
    whole = {
        "client": envelope.client_frames(2**63, [(12_001, 1, b"abc")]),
        "client-two": envelope.client_frames(1, [(12_001, 0, b"abc"), (12_002, 3, b"")]),
        "client-of-the-framework": envelope.client_frames(1, [(envelope.CLIENT_FRAME, 0, b"")]),
        "client-control": envelope.client_frames(1, [(12_001, 4, b"abc")]),
        "client-too-large": envelope.client_frames(1, [(12_001, 0, bytes(299))]),
        "push-one": envelope.push_frames([1], [frame], 2, 2**63),
        "push-two": envelope.push_to_one(1, [frame, frame]),
        "push-many": envelope.push_frames([1, 2**64 - 1], [frame]),
        "push-none": envelope.push_frames([], [frame]),
        "push-policy": envelope.push_frames([1], [frame], 3),
        "broadcast": envelope.broadcast_frames("12/é", [frame], 1, 1),
        "broadcast-all": envelope.broadcast_frames("", [frame]),
        "opened": envelope.event(envelope.SessionOpened(1, 7, 0, 1, "127.0.0.1", 2, 3, '{"name":"Ann"}')),
        "closed": envelope.event(envelope.SessionClosed(1, 4011)),
        "bind": envelope.event(envelope.Bind(1, 13, 31)),
        "kick": envelope.event(envelope.Kick(1, 4004, "enough")),
        "kick-user": envelope.event(envelope.KickUser(7, 1, 2, "enough")),
        "join": envelope.event(envelope.Join(1, "12/red")),
        "leave": envelope.event(envelope.Leave(1, "12/red")),
        "ready": envelope.event(envelope.LinkReady()),
        "hold": envelope.event(envelope.Hold(1, 1)),
        "run": envelope.event(envelope.Run("5a13")),
        "opened-fully": envelope.event(
            envelope.SessionOpenedFully(1, 7, 0, 1, "127.0.0.1", 2, 3, "", 13, 2**32 - 1, 1, 60)
        ),
        "renewed": envelope.event(envelope.Renewed(1, '{"name":"Ann"}', 60)),
        "connected": envelope.event(envelope.Connected(1, (1, 2**64 - 1))),
        "client-tags": envelope.client_frames(
            1, [(12_001, 8, bytes(4)), (12_001, 0, b""), (12_001, 19, bytes(5)), (12_001, 24, bytes(12))]
        ),
        "push-tags": envelope.push_to_one(1, [tagged(frame, 1, REQUEST), tagged(frame, 2, ANSWER)]),
    }
    inputs = {name: bytes([data[4] - fuzz_envelope.FIRST_ID]) + data[6:] for name, data in whole.items()}
    client, opened = inputs["client"], inputs["opened"]
    return inputs | {
        "client-part": client[:-1],
        "client-more": client + b"x",
        "opened-part": opened[:-1],
        "none": b"\xff",
    }


def outboxes() -> Inputs:
    """Steps of fuzz_outbox."""
    return {
        "push and take": bytes([0, 10, 0, 20, 6, 255, 1, 3, 6, 1]),
        "full": bytes([0, 49, 0, 49, 0, 49, 3, 0, 3, 1, 3, 2, 6, 40, 6, 255]),
        "keys": bytes([4, 1, 4, 2, 0, 5, 4, 1, 4, 5, 6, 30, 0, 3, 6, 255, 0, 1, 6, 255]),
        "window": bytes([0, 10, 0, 20, 0, 30, 6, 255, 8, 2, 6, 255, 9, 200, 8, 9, 9, 60, 4, 1, 6, 255, 8, 3, 9, 255]),
        "many": bytes([0, 6, 4, 3, 6, 50, 8, 2] * 100),
    }


def seeds() -> dict[str, Inputs]:
    """Every input, by target and name."""
    made = {
        "fuzz_frames": frames(),
        "fuzz_control": controls(),
        "fuzz_handshake": handshakes(),
        "fuzz_secure": scripts(),
        "fuzz_bodies": bodies(),
        "fuzz_proxy": proxies(),
        "fuzz_websocket": websockets(),
        "fuzz_envelope": envelopes(),
        "fuzz_outbox": outboxes(),
    }
    return {target: inputs | BROKE.get(target, {}) for target, inputs in made.items()}


def main() -> None:
    for target, inputs in seeds().items():
        folder = SEEDS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.name not in inputs:
                old.unlink()
        for name, data in inputs.items():
            (folder / name).write_bytes(data)
        print(f"{target}: {len(inputs)} seeds, {sum(map(len, inputs.values())):,} bytes")


if __name__ == "__main__":
    main()
