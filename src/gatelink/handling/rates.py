"""How many messages of one type a user may send: the `rate` of a handler."""

from collections.abc import Mapping

from gatelink.errors import RequestCode
from gatelink.session.interfaces import MessageSource
from gatelink.session.rates import TokenBucket
from gatelink.session.requests import tag_of
from gatelink.wire.frames import REQUEST, Frame


def within_rates(rates: Mapping[int, float], session: MessageSource, frames: list[Frame]) -> list[Frame]:
    """`frames` without those that exceed the rate of their type. These are dropped undecoded.

    rates: messages a second, by message id.
    """
    buckets = session.user.type_rates
    if buckets is None:
        buckets = session.user.type_rates = {}
    now = session.context.wheel.read_clock()
    taken = []
    for frame in frames:
        id = frame[0]
        rate = rates.get(id)
        if rate is not None:
            bucket = buckets.get(id)
            if bucket is None:
                bucket = buckets[id] = TokenBucket(rate, max(1.0, rate), now)
            if not bucket.take(now):
                session.context.stats.rate_dropped[session.context.name_of(id)] += 1
                if frame[1] >= REQUEST and session.requests is not None:
                    session.requests.refuse(session, tag_of(frame[2]), RequestCode.RATE)
                continue
        taken.append(frame)
    return taken
