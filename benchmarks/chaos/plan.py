"""How and at which byte each connection breaks: a function of the seed and the connection's number alone."""

from collections.abc import Callable, Sequence
from random import Random

from gatelink import ServerKey
from gatelink.testing import Drop, Fault, HalfClose, Reset, Stall
from gatelink.wire.control import Features, Hello, control_frame, decode_control
from gatelink.wire.frames import HEADER_SIZE
from gatelink.wire.handshake import Initiator, Responder
from gatelink.wire.resume import NO_HANDSHAKE, resume, resumed
from gatelink.wire.websocket import WebSocketStream

FIRST_BYTE, LAST_BYTE = 1_500, 12_000  # where a connection breaks: after it is verified, before it has done all
IN_RESUME = 0.15  # share of the later connections that break while their session is being resumed
STALL = 5.0  # s: longer than the heartbeat timeout, so that the stalled give up

KINDS: dict[Callable[..., Fault], float] = {Reset: 0.5, HalfClose: 0.25, Drop: 0.1, Stall: 0.15}
"""What breaks them, and how often."""

SESSION_ID, KEY = bytes(16), bytes(32)


UPGRADE = {"up": 190, "down": 165}
"""Bytes of the request of a WebSocket to a port of five digits, and of its answer."""


def resume_bytes(scheme: str = "tcp") -> dict[str, tuple[int, int]]:
    """By direction: the bytes before the RESUME or RESUMED of a sealed connection, and those to its end."""
    server_key = ServerKey.generate()
    hello = Hello(features=Features.PING | Features.RESUME, slot=0)
    initiator = Initiator(server_key.public, hello)
    handshake = decode_control(initiator.frame[HEADER_SIZE:])
    sealing = Responder([server_key]).respond(handshake, hello.features)  # type: ignore[arg-type]
    stream = sealing.stream
    said = len(stream.seal(control_frame(resume(KEY, NO_HANDSHAKE, SESSION_ID, 0, 1))))
    answered = len(stream.seal(control_frame(resumed(KEY, NO_HANDSHAKE, SESSION_ID, 0, 1))))
    before_up, before_down = len(initiator.frame), len(sealing.answer)
    if scheme == "ws":
        client, server = WebSocketStream(0, is_client=True), WebSocketStream(0)
        before_up, said = UPGRADE["up"] + len(client.wrap(bytes(before_up))), len(client.wrap(bytes(said)))
        before_down, answered = (
            UPGRADE["down"] + len(server.wrap(bytes(before_down))),
            len(server.wrap(bytes(answered))),
        )
    return {"up": (before_up, before_up + said), "down": (before_down, before_down + answered)}


class Plan:
    """The script of every connection; the first `sessions` of them are the sessions' first."""

    def __init__(self, seed: int, sessions: int, scheme: str = "tcp") -> None:
        self._seed = seed
        self._sessions = sessions
        self._resume = resume_bytes(scheme)

    def __call__(self, number: int) -> Sequence[Fault]:
        random = Random(f"{self._seed}/{number}")
        direction = random.choice(("up", "down"))
        kind = random.choices(list(KINDS), list(KINDS.values()))[0]
        if number > self._sessions and random.random() < IN_RESUME:
            # up: with the last byte of RESUME the server goes on with the session, and its answer finds nobody
            before, end = self._resume[direction]
            after = end if direction == "up" and random.random() < 0.5 else random.randint(before + 1, end - 1)
        else:
            after = random.randint(FIRST_BYTE, LAST_BYTE)
        more = {"seconds": STALL} if kind is Stall else {}
        return [kind(direction=direction, after_bytes=after, **more)]
