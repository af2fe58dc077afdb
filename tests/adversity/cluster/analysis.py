"""What a fault cost, from the events of robots and lobbies."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from statistics import median_high

import msgspec

from gatelink import CloseCode
from tests.adversity.cluster.events import Answered, AnyEvent, Ended, Handled, Health, Opened, Probed, Sent, Told

SILENT = 2.0
"""Seconds without an answer from which on a robot is in trouble. It sends four messages a second."""

OVERLAP = 10.0
"""Seconds that one service may handle messages of an older session while another has the newer one
(docs/promises.md, 5): `give_up_seconds` of the rules."""

Key = tuple[int, int]
"""A session: its uid, and the number of its login."""


class Window(msgspec.Struct, frozen=True):
    """When the fault `began`, when it was `over`, and `until` when the robots were watched."""

    began: float
    over: float
    until: float


class Direction(msgspec.Struct):
    """The messages of one direction. lost: of sessions that live; with_session: lost with a session that ended."""

    sent: int = 0
    lost: int = 0
    with_session: int = 0
    doubled: int = 0
    reordered: int = 0


class Cost(msgspec.Struct):
    """What one fault cost, in seconds and messages.

    refused: how long new players were refused, by login. unreported: how long a login refused them itself before
    its /healthz said so. silence: the longest time without an answer, of the median robot; longest_silence: of any
    robot. up: from robots to lobbies; down: the answers. told: lost messages that gatelink told the lobbies of;
    untold: lost ones of living sessions that it did not. heard_twice: messages that were handled after one of a
    newer session of the same user, at the same service, or more than OVERLAP later at another one. overlapped:
    those that another service handled within OVERLAP, and the seconds of the latest one. misfenced: messages that
    an application's store would have refused by their fence though they were new, or taken though they were old.
    healed: seconds from the end of the fault until nobody was refused or silent, None if that was not seen. ends:
    sessions that ended in the window, by code and reason, without those that the second device replaced.
    """

    refused: dict[str, float]
    unreported: dict[str, float]
    silence: float
    longest_silence: float
    up: Direction
    down: Direction
    told: int
    untold: int
    heard_twice: int
    overlapped: int
    overlap: float
    misfenced: int
    healed: float | None
    ends: dict[str, int]

    @property
    def wrong(self) -> int:
        """Messages that were handled, or answers that came, twice, out of order, or past a fence."""
        both = self.up.doubled + self.up.reordered + self.down.doubled + self.down.reordered
        return both + self.heard_twice + self.misfenced

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        counts = {
            "messages were handled twice": self.up.doubled,
            "messages were handled out of order": self.up.reordered,
            f"messages were handled after one of a newer session, there or over {OVERLAP:g} s ago": self.heard_twice,
            "messages had a fence that does not tell old from new": self.misfenced,
            "answers came twice": self.down.doubled,
            "answers came out of order": self.down.reordered,
            "messages of living sessions were lost, and nobody was told": self.untold,
        }
        found = [f"{count:,} {what}" for what, count in counts.items() if count]
        if self.healed is None:
            found.append("players were still refused or silent when the watch ended")
        return found


def analyze(events: Iterable[AnyEvent], window: Window) -> Cost:
    """The cost of the fault of this window. events: of the robots' whole life, in any order."""
    events = sorted(events, key=lambda event: event.at)
    robots = {event.uid for event in events if isinstance(event, Opened)}
    ended = [event for event in events if isinstance(event, Ended)]
    gone = {(event.uid, event.login) for event in ended}
    handled = [event for event in events if isinstance(event, Handled) and event.uid in robots]
    answered = [event for event in events if isinstance(event, Answered)]
    up = by_session(event for event in events if isinstance(event, Sent))
    arrived = by_session(handled)
    told = Counter[int]()
    for event in events:
        if isinstance(event, Told) and event.uid in robots:
            told[event.uid] += event.lost
    missing = Counter[int]()
    for (uid, login), numbers in up.items():
        if (uid, login) not in gone:
            missing[uid] += len(set(numbers).difference(arrived.get((uid, login), ())))

    probes = [event for event in events if isinstance(event, Probed)]
    refusals = refused(probes, window)
    by_login = refused([probe for probe in probes if not (probe.error and probe.has_token)], window)
    gaps = silent(answered, robots, window)
    troubles = [each for spans in refusals.values() for each in spans]
    troubles += [(start, end) for spans in gaps.values() for start, end in spans if end - start > SILENT]
    last = max((end for _, end in troubles), default=0.0)
    longest = [max(end - start for start, end in spans) for spans in gaps.values()]
    overlaps = list(late(handled))
    allowed = [each.seconds for each in overlaps if each.is_allowed]
    return Cost(
        refused={name: sum(end - start for start, end in spans) for name, spans in refusals.items()},
        unreported=unreported(by_login, [event for event in events if isinstance(event, Health)]),
        silence=median_high(longest) if longest else 0.0,
        longest_silence=max(longest, default=0.0),
        up=compare(up, arrived, gone),
        down=compare(arrived, by_session(answered), gone),
        told=told.total(),
        untold=sum(max(0, count - told[uid]) for uid, count in missing.items()),
        heard_twice=len(overlaps) - len(allowed),
        overlapped=len(allowed),
        overlap=max(allowed, default=0.0),
        misfenced=misfenced(handled),
        healed=None if last >= window.until else max(0.0, last - window.over),
        ends=Counter(
            f"{event.code} {event.reason}"
            for event in ended
            if event.at >= window.began and event.code != CloseCode.REPLACED
        ),
    )


def by_session(events: Iterable[Sent | Handled | Answered]) -> dict[Key, list[int]]:
    """The numbers of the messages of each session, in the order of the events."""
    found = defaultdict[Key, list[int]](list)
    for event in events:
        found[event.uid, event.login].append(event.number)
    return found


def compare(sent: Mapping[Key, Sequence[int]], came: Mapping[Key, Sequence[int]], gone: Set[Key]) -> Direction:
    """What became of the messages on their way. gone: the sessions that ended."""
    result = Direction(sent=sum(map(len, sent.values())))
    for key in sent.keys() | came.keys():
        left = Counter(sent.get(key, ()))
        highest = -1
        for number in came.get(key, ()):
            if left[number] <= 0:
                result.doubled += 1
            elif number < highest:
                result.reordered += 1
            left[number] -= 1
            highest = max(highest, number)
        lost = sum(count for count in left.values() if count > 0)
        if key in gone:
            result.with_session += lost
        else:
            result.lost += lost
    return result


class Late(msgspec.Struct, frozen=True):
    """A message that was handled `seconds` after the first one of a newer session of its user.

    is_there: the same service had handled one of a newer session.
    """

    seconds: float
    is_there: bool

    @property
    def is_allowed(self) -> bool:
        return not self.is_there and self.seconds <= OVERLAP


def late(handled: Iterable[Handled]) -> Iterator[Late]:
    """The messages that were handled after one of a newer session of the same user. handled: in order of time."""
    newest = dict[Key, int]()  # by user and service
    began = defaultdict[int, dict[int, float]](dict)  # by user and session: when its first message was handled
    for event in handled:
        place = event.uid, event.server
        began[event.uid].setdefault(event.login, event.at)
        newer = [at for login, at in began[event.uid].items() if login > event.login]
        if newer:
            yield Late(event.at - min(newer), event.login < newest.get(place, 0))
        newest[place] = max(event.login, newest.get(place, 0))


def misfenced(handled: Iterable[Handled]) -> int:
    """Messages whose fence does not tell whether they are old. handled: in order of time."""
    newest = dict[int, tuple[int, int]]()
    fences = dict[int, tuple[int, int]]()
    count = 0
    for event in handled:
        place = event.login, event.number
        is_new = place > newest.get(event.uid, (0, 0))
        if is_new != (event.fence >= fences.get(event.uid, event.fence)) and event.uid in newest:
            count += 1
        newest[event.uid] = max(place, newest.get(event.uid, place))
        fences[event.uid] = max(event.fence, fences.get(event.uid, event.fence))
    return count


def refused(probes: Iterable[Probed], window: Window) -> dict[str, list[tuple[float, float]]]:
    """When new players were refused, by login: from the first one's arrival to that of the next one who got in."""
    found = dict[str, list[tuple[float, float]]]()
    since = dict[str, float]()
    for probe in probes:
        spans = found.setdefault(probe.login, [])
        if not window.began <= probe.at < window.until:
            continue
        if probe.error:
            since.setdefault(probe.login, probe.at)
        elif probe.login in since:
            spans.append((since.pop(probe.login), probe.at))
    for login, start in since.items():
        found[login].append((start, window.until))
    return found


def unreported(refusals: Mapping[str, Sequence[tuple[float, float]]], health: Sequence[Health]) -> dict[str, float]:
    """Seconds from the first refusal of each time until the login's /healthz said so; all of it if it never did."""
    found = dict.fromkeys(refusals, 0.0)
    for login, spans in refusals.items():
        for start, end in spans:
            said = (each.at for each in health if each.login == login and each.status != 200 and start <= each.at < end)
            found[login] += next(said, end) - start
    return found


def silent(answered: Iterable[Answered], robots: Iterable[int], window: Window) -> dict[int, list[tuple[float, float]]]:
    """The times between two answers to each robot, from the beginning of the window to its end."""
    found: dict[int, list[tuple[float, float]]] = {uid: [] for uid in robots}
    last = dict.fromkeys(found, window.began)
    for event in answered:
        if event.uid in last and window.began < event.at < window.until:
            found[event.uid].append((last[event.uid], event.at))
            last[event.uid] = event.at
    for uid, at in last.items():
        found[uid].append((at, window.until))
    return found
