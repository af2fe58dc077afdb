"""The requests of one session, in both directions (docs/protocol.md, "Requests").

A request is a message with a tag. Its answer, or the failure of the request, comes back with the same tag. The side
that asks numbers its tags, so that each direction has tags of its own.
"""

import asyncio
import struct
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from gatelink.calls import contain
from gatelink.errors import (
    BodyError,
    CloseCode,
    LocalError,
    MessageTooLarge,
    PeerError,
    ProtocolError,
    RequestCode,
    RequestFailed,
    SessionClosed,
)
from gatelink.session.loop_context import LoopContext, too_large
from gatelink.session.timers import Item
from gatelink.wire.base import FRAMEWORK_IDS
from gatelink.wire.codecs import decode_error
from gatelink.wire.control import MAX_REASON, cut_text, printable
from gatelink.wire.frames import ANSWER, FAILED, REQUEST, TAG_SIZE, Frame, encode_frame, tagged
from gatelink.wire.messages import MessageType

MOST = 64
"""Requests of one session that wait for their answers, in each direction."""

_FAILURE = struct.Struct("<IHIH")  # tag, code, detail, length of the reason
_SENT = {code.value: code for code in RequestCode if code < RequestCode.TIMEOUT}  # the others are this side's own


class Asker(Protocol):
    """A session or a player, as its requests see it."""

    context: LoopContext
    close_code: CloseCode | None

    @property
    def requests(self) -> "Requests | None": ...

    def send_frame(self, frame: bytes) -> None: ...

    def expect_answers(self) -> None:
        """Read on for one more window, even if the handlers lag: one of them waits for an answer."""


class Asked(Item):
    """One request of this side that waits for its answer."""

    __slots__ = ("answer", "future", "since")

    def __init__(self, answer: MessageType, future: "asyncio.Future[Any]") -> None:
        self._tick = 0
        self.answer = answer
        self.future = future
        self.since = perf_counter()

    def on_deadline(self, now: float) -> None:
        self.fail(RequestCode.TIMEOUT)

    def fail(self, code: RequestCode, detail: int = 0, reason: str = "") -> None:
        """Fail the request, unless its caller has a result or has given up."""
        if not self.future.done():
            self.future.set_exception(RequestFailed(code, detail, reason))


class Requests:
    """The requests of one session or player that have no answer yet.

    type, generation: the first two bytes of this side's tags; a service behind a gateway has its type and the number of
    the player's binding there, any other side 0.

    asked: this side's, by tag. A request whose caller gave up stays in it until its answer comes.
    serving: the other side's, by tag: the id of each, and the type of server that answers it; 0: this process.
    """

    __slots__ = ("_count", "_first", "asked", "serving")

    def __init__(self, type: int = 0, generation: int = 0) -> None:
        self._first = type | (generation & 0xFF) << 8
        self._count = 0
        self.asked: dict[int, Asked] = {}
        self.serving: dict[int, tuple[int, int]] = {}

    # -- what this side asks --

    @property
    def waiting(self) -> int:
        """How many of this side's requests have a caller that waits for the answer."""
        return sum(not asked.future.done() for asked in self.asked.values())

    def next_tag(self) -> int:
        """The tag of the next request. Raises RequestFailed if too many requests wait already."""
        if len(self.asked) >= MOST:
            raise RequestFailed(RequestCode.TOO_MANY, reason=f"{MOST} requests of this session wait for their answers")
        while (tag := self._first | self._count << 16) in self.asked:
            self._count = (self._count + 1) & 0xFFFF
        self._count = (self._count + 1) & 0xFFFF
        return tag

    def give_up(self, code: RequestCode) -> None:
        """Fail all requests of this side. Their answers, if they still come, are dropped."""
        for asked in self.asked.values():
            asked.fail(code)

    def close(self) -> None:
        """End the requests of both sides, as the session has ended: none gets an answer any more."""
        self.give_up(RequestCode.CLOSED)
        self.asked.clear()
        self.serving.clear()

    # -- what the other side sends --

    def take_all(
        self, peer: Asker, frames: list[Frame], forward: Callable[[Frame], None] | None = None
    ) -> tuple[list[Frame], PeerError | None]:
        """Take the answers out of the frames of a read, and note the requests.

        forward: takes the answers to requests of a service behind this side.
        Returns the messages and requests; the error is that of the first wrong frame, and nothing after it is taken.
        """
        messages: list[Frame] = []
        try:
            for frame in frames:
                if frame[1] < REQUEST:
                    messages.append(frame)
                elif forward is not None and frame[1] >= ANSWER and frame[2][0]:  # a service asked
                    _check_tagged(frame)
                    forward(frame)
                elif self.take(peer, frame):
                    messages.append(frame)
        except PeerError as error:
            return messages, error
        return messages, None

    def take(self, peer: Asker, frame: Frame) -> bool:
        """Take a frame with a tag as soon as it is received. Returns True for a request that is to be handled.

        Raises ProtocolError for a tag that is in use, an id that the framework has, and a malformed answer.
        """
        _check_tagged(frame)
        id, flags, body = frame
        tag = tag_of(body)
        if flags >= ANSWER:
            self._answered(peer, id, flags, body, tag)
            return False
        if tag in self.serving:
            raise ProtocolError(f"a request with the tag {tag:#x}, which another one has")
        if len(self.serving) >= MOST:
            peer.context.stats.requests_served[RequestCode.TOO_MANY.label] += 1
            _send(peer, failed_frame(id, tag, RequestCode.TOO_MANY))
            return False
        self.serving[tag] = id, 0
        return True

    def _answered(self, peer: Asker, id: int, flags: int, body: bytes, tag: int) -> None:
        failure = open_failure(body) if flags == FAILED else None
        asked = self.asked.pop(tag, None)
        if asked is None:
            peer.context.stats.stray_answers += 1
            return
        if failure is not None:
            asked.fail(*failure)
        elif id != asked.answer.id:
            asked.fail(RequestCode.WRONG_ANSWER, reason=f"message {id}, not {asked.answer.name}")
        else:
            try:
                answer = asked.answer.decode(peer.context.open_body(flags, body))
            except BaseException as raised:  # of the application's own codec, or of its class
                asked.fail(RequestCode.WRONG_ANSWER, reason="it does not decode")
                error = contain(raised)
                if isinstance(error, PeerError):
                    raise error from None
                raise BodyError(f"an answer {asked.answer.name} does not decode: {decode_error(error)}") from None
            if not asked.future.done():
                asked.future.set_result(answer)

    # -- what this side answers --

    def answer(self, peer: Asker, tag: int, message: Any) -> None:
        """Answer a request with what its handler returned. Raises what encoding raises, after a FAILED."""
        if tag not in self.serving:
            return  # the session has ended
        request = peer.context.catalog.by_id.get(self.serving[tag][0])
        if message is None or request is None or request.answer is None:
            self.refuse(peer, tag, RequestCode.NO_ANSWER)
            return
        try:
            if type(message) is not request.answer:
                raise TypeError(
                    f"the handler of {request.name} returned a {type(message).__name__}; it is answered with "
                    f"{request.answer.__name__}"
                )
            frame = request_frame(peer.context, message, tag, ANSWER)
        except BaseException:
            self.refuse(peer, tag, RequestCode.FAILED)
            raise
        if self.serving.pop(tag, None) is None:
            return  # the codec has ended the session
        peer.context.stats.requests_served["answered"] += 1
        _send(peer, frame)

    def refuse(self, peer: Asker, tag: int, code: RequestCode, detail: int = 0, reason: str = "") -> None:
        """Say that a request has no answer. Do nothing if it is answered already."""
        served = self.serving.pop(tag, None)
        if served is not None:
            peer.context.stats.requests_served[code.label] += 1
            _send(peer, failed_frame(served[0], tag, code, detail, reason))


async def ask(peer: Asker, message: Any, timeout: float) -> Any:  # noqa: ASYNC109 - goes with the request
    """Send a request and wait for its answer (`Session.request`)."""
    context = peer.context
    kind = context.catalog.of_type(type(message))
    answer = context.catalog.answer_to(kind)
    if answer is None:
        raise LocalError(f"{kind.name} has no answer; declare it as `class {kind.name}(Struct, Request[Answer])`")
    if not timeout > 0:
        raise LocalError(f"timeout={timeout}; give seconds above 0")
    stats = context.stats
    try:
        asked = _send_request(peer, message, answer)
    except RequestFailed as error:
        stats.requests_asked[error.code.label] += 1
        raise
    outcome = "cancelled"
    try:
        context.wheel.set(asked, timeout)
        peer.expect_answers()
        result = await asked.future
        outcome = "answered"
        return result
    except RequestFailed as error:
        outcome = error.code.label
        raise
    finally:
        context.wheel.cancel(asked)
        stats.requests_asked[outcome] += 1
        stats.request_seconds.observe(perf_counter() - asked.since)


def _send_request(peer: Asker, message: Any, answer: MessageType) -> Asked:
    """Send a request that `answer` answers. Raises RequestFailed, and what encoding raises: then nothing was sent."""
    context, requests = peer.context, peer.requests
    if peer.close_code is not None:  # a player's last handlers may still send messages
        raise RequestFailed(RequestCode.CLOSED, reason=f"the session has ended: {peer.close_code.label}")
    if requests is None:
        raise RequestFailed(RequestCode.UNSUPPORTED, reason="the other side does not speak requests")
    tag = requests.next_tag()
    try:
        peer.send_frame(request_frame(context, message, tag, REQUEST))
    except SessionClosed as closed:
        raise RequestFailed(RequestCode.CLOSED, reason=str(closed)) from None
    asked = requests.asked[tag] = Asked(answer, context.loop.create_future())
    return asked


def _check_tagged(frame: Frame) -> None:
    """Raises ProtocolError for a frame with a tag whose id is the framework's."""
    if frame[0] in FRAMEWORK_IDS:
        raise ProtocolError(f"a request or an answer with id {frame[0]}, which is the framework's")


def tag_of(body: bytes) -> int:
    """The tag in front of the body of a request, answer or failure."""
    return int.from_bytes(body[:TAG_SIZE], "little")


def request_frame(context: LoopContext, message: Any, tag: int, kind: int) -> bytes:
    """The whole frame of a request or an answer. Counts it as sent. Raises what encoding raises, MessageTooLarge."""
    encoder = context.encoder(type(message))
    frame = tagged(encoder.frame(message), tag, kind)
    if len(frame) > context.max_message:
        raise too_large(encoder.kind.name, len(frame), context.max_message)
    encoder.traffic.messages += 1
    encoder.traffic.bytes += len(frame)
    return frame


def failed_frame(id: int, tag: int, code: RequestCode, detail: int = 0, reason: str = "") -> bytes:
    """The whole FAILED frame for the request `id`."""
    text = cut_text(reason, MAX_REASON)
    return encode_frame(id, _FAILURE.pack(tag, code, detail, len(text)) + text, FAILED)


def open_failure(body: bytes) -> tuple[RequestCode, int, str]:
    """The code, detail and reason of a FAILED frame. A code that is never sent, or is not known, counts as FAILED.

    Raises ProtocolError for a reason of another length than it says; the decoder takes no shorter bodies.
    """
    _, number, detail, size = _FAILURE.unpack_from(body)
    reason = body[_FAILURE.size :]
    if size != len(reason) or size > MAX_REASON:
        raise ProtocolError(f"FAILED with {len(reason)} bytes of a reason of {size}; at most {MAX_REASON} are allowed")
    code = _SENT.get(number, RequestCode.FAILED)
    return code, detail, printable(reason.decode("utf-8", "surrogateescape"))


def _send(peer: Asker, frame: bytes) -> None:
    try:
        peer.send_frame(frame)
    except (SessionClosed, MessageTooLarge):
        pass  # the session has ended, and its requests with it
