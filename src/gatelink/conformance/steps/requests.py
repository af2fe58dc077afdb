"""Requests of both sides: each has one outcome, also over breaks. Skipped if HELLO does not offer them."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.contract import Answer, Failed
from gatelink.conformance.judge import Unmet
from gatelink.conformance.messages import Ask, Told
from gatelink.conformance.player import Player
from gatelink.conformance.session import tag_of, told
from gatelink.conformance.step import step
from gatelink.errors import RequestCode
from gatelink.session.requests import failed_frame, open_failure
from gatelink.wire.control import Features
from gatelink.wire.frames import FAILED, Frame

LARGE = 2**64 - 3
"""A number that no double holds."""


async def _login(bench: Bench) -> Player:
    return await bench.login(needs=Features.REQUESTS)


async def _requests(bench: Bench, player: Player, count: int) -> list[Frame]:
    await bench.until(lambda: len(player.scripted.requests) >= count, f"{count} REQUESTs")
    return player.scripted.requests[:count]


async def _expect_reply(bench: Bench, player: Player, n: int, expected: Answer | Failed) -> None:
    await bench.until(lambda: n in player.replies, f"the outcome of request {n}")
    if player.replies[n] != expected:
        raise Unmet(f"request {n} has the outcome {player.replies[n]}, not {expected}")


@step()
async def request_answered(bench: Bench) -> None:
    """Requests of the client get their own answers, in whatever order these come."""
    player = await _login(bench)
    numbers = [5, LARGE, 7]
    for n, number in enumerate(numbers):
        bench.request(player, n, number, 10)
    requests = await _requests(bench, player, 3)
    if len({tag_of(frame) for frame in requests}) < 3:
        raise Unmet("two requests that wait for answers have one tag")
    if [told(frame).number for frame in requests] != numbers:
        raise Unmet("the requests are not those that were made, or in another order")
    for frame in reversed(requests):
        player.scripted.answer(frame, Told(told(frame).number - 1))
    for n, number in enumerate(numbers):
        await _expect_reply(bench, player, n, Answer(player.number, n, str(number - 1)))


@step()
async def request_failed(bench: Bench) -> None:
    """A FAILED has its code; that of a refusal has the application's number and reason, too."""
    player = await _login(bench)
    outcomes = [
        (RequestCode.REFUSED, 2**32 - 1, "nicht heute"),
        (RequestCode.NO_HANDLER, 0, ""),
        (RequestCode.RATE, 0, ""),
    ]
    for n in range(len(outcomes)):
        bench.request(player, n, n, 10)
    requests = await _requests(bench, player, len(outcomes))
    for n, ((code, detail, reason), frame) in enumerate(zip(outcomes, requests, strict=True)):
        player.scripted.send_frame(failed_frame(frame[0], tag_of(frame), code, detail, reason))
        await _expect_reply(bench, player, n, Failed(player.number, n, code, detail, reason))


@step(slow=True)
async def request_late(bench: Bench) -> None:
    """A request fails when its time is over. Its answer, if it still comes, is dropped; the session goes on."""
    player = await _login(bench)
    bench.request(player, 1, 1, 0.3)
    (frame,) = await _requests(bench, player, 1)
    await bench.until(lambda: 1 in player.replies, "the outcome of request 1")
    late = player.replies[1]
    if not isinstance(late, Failed) or late.code:
        raise Unmet(f"request 1 has the outcome {late}, and its time was over")
    player.scripted.answer(frame, Told(1))
    player.scripted.answer(frame, Told(1))  # one to nothing at all
    await bench.exchange(player)


@step()
async def request_over_break(bench: Bench) -> None:
    """A request and its answer are messages: after a break the answer comes, once."""
    player = await _login(bench)
    session = player.scripted
    session.acknowledges = False
    bench.request(player, 1, 11, 10)
    (first,) = await _requests(bench, player, 1)
    session.received -= 1
    player.connection.abort()
    session.acknowledges = True
    await bench.resume(player)
    await bench.until(lambda: session.received == 1, "the request again")
    bench.request(player, 2, 12, 10)
    _, second = await _requests(bench, player, 2)
    player.connection.abort()
    session.answer(first, Told(11))
    session.answer(second, Told(12))
    await bench.resume(player)
    await _expect_reply(bench, player, 1, Answer(player.number, 1, "11"))
    await _expect_reply(bench, player, 2, Answer(player.number, 2, "12"))
    await bench.exchange(player)


@step()
async def server_asks(bench: Bench) -> None:
    """The client answers the server's requests with their tags, or refuses them."""
    player = await _login(bench)
    session = player.scripted
    tags = {0: 9, 7 | 1 << 8 | 3 << 16: 10, 0xFFFFFFFF: 999}
    for tag, number in tags.items():
        session.ask(Ask(number), tag)
    session.ask(Ask(4_000_000_000), 0x10000)
    await bench.until(lambda: len(session.answers) >= 4, "four answers")
    for frame in session.answers:
        tag = tag_of(frame)
        if tag == 0x10000:
            outcome = open_failure(frame[2]) if frame[1] == FAILED else None
            if outcome != (RequestCode.REFUSED, 4_000_000_000, "no"):
                raise Unmet(f"the refusal is {outcome or told(frame)}, not 4 with 4000000000 and `no`")
        elif frame[1] == FAILED or told(frame).number != tags.get(tag):
            raise Unmet(f"tag {tag:#x} has the answer {frame}, not {tags.get(tag)}")
    await bench.exchange(player)


@step()
async def server_asks_over_break(bench: Bench) -> None:
    """The client's answer that was lost in a break comes again, the same one, and the request is answered once."""
    player = await _login(bench)
    session = player.scripted
    session.acknowledges = False
    session.ask(Ask(5), 1)
    await bench.until(lambda: session.answers, "an answer")
    session.received -= 1
    player.connection.abort()
    session.acknowledges = True
    session.ask(Ask(6), 2)
    await bench.resume(player)
    await bench.until(lambda: len(session.answers) == 2, "the second answer")
    await bench.exchange(player)
    if len(session.answers) != 2:
        raise Unmet(f"{len(session.answers)} answers to two requests")
