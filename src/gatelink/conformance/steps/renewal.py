"""Renewal of the login, and what the server says of lost messages. Skipped if HELLO does not offer them."""

from gatelink.conformance.bench import Bench
from gatelink.conformance.judge import Unmet
from gatelink.conformance.step import step
from gatelink.errors import CloseCode
from gatelink.wire.control import Close, Expiring, Features, Lost


@step()
async def renews(bench: Bench) -> None:
    """After EXPIRING the client shows a fresh token, and the session goes on."""
    player = await bench.login(tokens=["first", "second"], needs=Features.RENEWAL)
    player.connection.say(Expiring(60))
    await bench.until(lambda: player.scripted.renewals, "RENEW")
    if player.scripted.renewals != ["second"]:
        raise Unmet(f"RENEW has the token {player.scripted.renewals[0]!r}, not the fresh one")
    await bench.exchange(player)


@step()
async def renews_over_break(bench: Bench) -> None:
    """A RENEW without its answer is sent again when the session resumes."""
    player = await bench.login(tokens=["first", "second"], needs=Features.RENEWAL)
    session = player.scripted
    session.answers_renewals = False
    player.connection.say(Expiring(60))
    await bench.until(lambda: session.renewals, "RENEW")
    player.connection.abort()
    session.answers_renewals = True
    await bench.resume(player)
    await bench.until(lambda: len(session.renewals) >= 2, "RENEW again, behind RESUMED")
    await bench.exchange(player)


@step(slow=True)
async def token_expired(bench: Bench) -> None:
    """CLOSE 4015 ends the session, and the client dials no more; or it logs in again, and says so."""
    player = await bench.login(needs=Features.RENEWAL)
    player.connection.say(Close(CloseCode.TOKEN_EXPIRED))
    player.connection.end()
    await bench.gone(player, CloseCode.TOKEN_EXPIRED, "after its token expired")


@step()
async def losses(bench: Bench) -> None:
    """LOST has totals; the client tells only of losses since the last LOST, and of none twice."""
    player = await bench.login(needs=Features.LOSSES)
    for record in (Lost(9, 2, 1), Lost(9, 2, 1), Lost(9, 5, 1), Lost(11, 0, 4_000_000_000)):
        player.connection.say(record)
    await bench.until(lambda: len(player.losses) >= 3, "three events `lost`")  # a break may drop what is not read
    player.connection.abort()
    await bench.resume(player)
    player.connection.say(Lost(9, 5, 1))
    await bench.exchange(player)
    got = [(lost.type, lost.to_server, lost.to_client) for lost in player.losses]
    if got != [(9, 2, 1), (9, 3, 0), (11, 0, 4_000_000_000)]:
        raise Unmet(f"`lost` says (type, to server, to client) {got}")
