"""The pages say what is: their code is the examples', their links lead somewhere, their tables are complete."""

import ast
import inspect
import math
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs import draw_states
from gatelink import Backoff, CloseCode, Limits, MemoryTokens, RequestCode, WireOptions, __version__, _native, tasks
from gatelink.cluster import authentic, login_arbiter, lost_pushes, players, registry, renewals
from gatelink.cluster.engine import CONFLICT_PAUSE, MAX_CONFLICTS
from gatelink.cluster.group_counts import COUNT_SECONDS
from gatelink.cluster.kicks import ANSWER_SECONDS
from gatelink.cluster.type_route import MAX_LEAVING
from gatelink.config import LINK_LIMITS
from gatelink.net import certificates, tls_watch, user_kicks, websocket
from gatelink.net.dialer import GONE_SECONDS
from gatelink.net.proxy_header import MAX_HEADER
from gatelink.ops import families, http, log_writer, process, supervisor, top
from gatelink.session import groups, renewal, requests, running_handlers, timers
from gatelink.session.loop_context import FLUSH_AT_ONCE
from gatelink.session.session import LEAST_BEAT
from gatelink.session.standstill import longest_silence
from gatelink.wire import checks
from gatelink.wire.control import MAX_REASON
from gatelink.wire.websocket import SMALL

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
LIMITS = ROOT / "docs" / "limits.md"
PROMISES = ROOT / "docs" / "promises.md"

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def targets(page: Path, text: str) -> Iterator[tuple[str, Path, str]]:
    """(as written, the file, the heading) of every link in `text` that stays in the repository."""
    for path, anchor in LINK.findall(CODE.sub("", text)):
        if not path.startswith(("http:", "https:", "mailto:")):
            yield path, (page.parent / path).resolve() if path else page, anchor


def headings(page: Path) -> set[str]:
    """The anchors of a page, as the usual renderers make them."""
    lines = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@every_page
def test_every_link_leads_to_a_file_and_its_heading(page: Path) -> None:
    for written, file, anchor in targets(page, page.read_text()):
        assert file.exists(), f"{name(page)} links {written}, which is not there"
        assert file.is_relative_to(ROOT), f"{name(page)} links {written}, which is not in the repository"
        if anchor:
            assert anchor in headings(file), f"{name(page)} links #{anchor}; {name(file)} has no such heading"


# -- names of the source --

NAMED_LINK = re.compile(r"\[`([A-Za-z_][\w.]*)`\]\(([^)#\s]+\.py)\)")
"""A link that is a name: [`Name`](file.py)."""

NAME_BEFORE_LINK = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`,?(?:\s+(?:in|of))?\s+\(?\[[^\]`]*\]\(([^)#\s]+\.py)\)")
"""A name right before the link to its file: `Name` ([folder/file.py](file.py)), `Name` in [file.py](file.py)."""


@cache
def defined_in(file: Path) -> frozenset[str]:
    """The names that a module defines, and `Class.member` for the members of its classes."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        names |= bound_by(node)
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                names |= {f"{node.name}.{member}" for member in bound_by(part)}
    return frozenset(names)


def bound_by(node: ast.AST) -> set[str]:
    """The names that one statement defines, on its module, class or `self`."""
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target for part in targets for target in assigned(part)}
        case ast.AnnAssign(target=target):
            return set(assigned(target))
        case _:
            return set()


def assigned(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name):
            yield name
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from assigned(part)


def names_beside_links(page: Path, text: str) -> Iterator[tuple[str, Path]]:
    """(name, file) for each name in `text` that is a link to a Python file, or stands right before one."""
    for pattern in (NAMED_LINK, NAME_BEFORE_LINK):
        for symbol, path in pattern.findall(CODE.sub("", text)):
            file = (page.parent / path).resolve()
            if file.is_relative_to(ROOT / "src") and (symbol[0].isupper() or "." not in symbol):
                yield symbol, file  # not `engine.stats`, which says what an object has


def misplaced_names(page: Path, text: str) -> list[str]:
    return [
        f"{symbol} is not defined in {name(file)}"
        for symbol, file in names_beside_links(page, text)
        if symbol not in defined_in(file)
    ]


@every_page
def test_every_name_beside_a_link_is_defined_in_the_linked_file(page: Path) -> None:
    assert not misplaced_names(page, page.read_text()), f"{name(page)}: name the file that defines it"


@pytest.mark.parametrize(
    "text",
    [
        "[`Admission`](src/gatelink/net/listener.py)",
        "`Admission` of [net/listener.py](src/gatelink/net/listener.py)",
        "`FrameDecoder.seal`\n  ([wire/frames.py](src/gatelink/wire/frames.py))",
        "`Handlers` in [calls.py](src/gatelink/calls.py)",
        "[`Session.receive`](src/gatelink/session/stream.py)",
    ],
)
def test_a_name_beside_the_wrong_file_is_found(text: str) -> None:
    assert misplaced_names(ROOT / "README.md", text)


def test_every_heading_of_the_tour_links_the_code_that_it_is_about() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "tour.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 15
    for section in sections:
        assert NAMED_LINK.search(section), f"the tour's section has no [`Name`](file.py):\n{section}"


def test_the_page_of_states_is_drawn_from_the_tables() -> None:
    assert draw_states.PAGE.read_text() == draw_states.page(), "run python docs/draw_states.py"


def test_every_extra_that_a_page_or_an_error_names_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        for named in re.findall(r"(?:gatelink|'\.)\[([a-z, ]+)\]", file.read_text()):
            missing = {extra.strip() for extra in named.split(",")} - set(extras)
            assert not missing, f"{name(file)} names the extra {missing}; pyproject.toml has {', '.join(extras)}"


ARCHITECTURE = ROOT / "docs" / "architecture.md"

LONG = 500
"""Lines of a source file, over which a reason stands in docs/architecture.md."""


def section(page: Path, title: str) -> str:
    """The text under one heading of a page, up to the next of its level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name(page)} has no section {title!r}"
    return found[1]


def test_every_long_file_has_its_reason() -> None:
    listed = {file for _, file, _ in targets(ARCHITECTURE, section(ARCHITECTURE, "Long files"))}
    long = {path for path in (ROOT / "src").rglob("*.py") if len(path.read_text().splitlines()) > LONG}
    assert long <= listed, f"say in {name(ARCHITECTURE)} why these are one concept: {sorted(map(name, long - listed))}"


def test_every_compiled_class_is_on_the_page_of_the_core_with_the_file_that_has_its_twin() -> None:
    page = ROOT / "docs" / "native.md"
    documented = {owner for owner, _ in names_beside_links(page, section(page, "What is in it"))}
    assert set(_native.pure) <= documented, f"{name(page)} lacks {set(_native.pure) - documented}"
    rows = re.findall(r"^\| (.*?) \| `(\w+\.pxi)` \|", page.read_text(), re.MULTILINE)
    file_of = {name: file for names, file in rows for name in re.findall(r"\[`(\w+)`\]", names)}
    native = ROOT / "src" / "gatelink" / "native"
    missing = [
        f"{each} in {file_of[each]}"
        for each in _native.pure
        if not re.search(rf"^(?:cdef class|def) {each}\b", (native / file_of[each]).read_text(), re.MULTILINE)
    ]
    assert not missing, f"the core has no {missing}"


@every_page
def test_no_page_names_a_place_on_one_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w./$-])/(?:home|root|work|Users|mnt)/\S*", page.read_text())
    assert not found, f"{name(page)} names {', '.join(found)}; write paths from the repository's root"


def test_no_page_or_source_calls_the_present_version_an_older_one() -> None:
    """Pages name the feature that an older peer lacks, not its version. Only the README says which version this is."""
    series = re.escape(".".join(__version__.split(".")[:2]))
    sources = [path for folder in ("src", "tests", "examples") for path in (ROOT / folder).rglob("*.py")]
    found = [
        f"{name(path)} says {said[0]!r}"
        for path in [*PAGES, *sources]
        if path not in (ROOT / "README.md", ROOT / "README.zh-CN.md")
        for said in re.finditer(rf"version {series}\b|\b{series}(?:\.\d+)? 版", path.read_text(), re.IGNORECASE)
    ]
    assert not found, "; ".join(found)


PAGES_OF_PIECES = [
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("guide.md", "porting.md", "zh-CN/guide.md")),
]
"""Pages whose Python is of examples."""


@pytest.mark.parametrize("page", PAGES_OF_PIECES, ids=name)
def test_code_is_a_piece_of_the_example_linked_above_it(page: Path) -> None:
    text = page.read_text()
    for block in CODE.finditer(text):
        above = [file for _, file, _ in targets(page, text[: block.start()]) if file.suffix == ".py"]
        assert above, f"{name(page)}: code with no link to its file above it:\n{block[1]}"
        assert (ROOT / "examples") in above[-1].parents, f"{name(page)}: {name(above[-1])} is no example:\n{block[1]}"
        assert f"\n{block[1]}" in f"\n{above[-1].read_text()}", f"{name(page)}: not in {name(above[-1])}:\n{block[1]}"


def test_the_readme_has_all_of_hello() -> None:
    text = (ROOT / "README.md").read_text()
    for file in ("server", "client"):
        assert (ROOT / f"examples/hello/{file}.py").read_text() in [block[1] for block in CODE.finditer(text)]


# -- docs/limits.md --


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of every table row, without backticks around the first."""
    for line in page.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield [cells[0].strip("`"), *cells[1:]]


def shown(value: Any) -> str:
    """A default as the table writes it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case bytes():
            return value.hex()
        case tuple():
            return ", ".join(map(str, value))
    raise AssertionError(f"how is {value!r} written in {name(LIMITS)}? shown() must know")


@pytest.mark.parametrize(
    ("settings", "field"),
    [(settings, field.name) for settings in (Limits, WireOptions) for field in msgspec.structs.fields(settings)],
)
def test_every_setting_is_documented_with_its_default(settings: type[Limits | WireOptions], field: str) -> None:
    found = [row for row in rows(LIMITS) if row[0] == field]
    assert len(found) == 1, f"{name(LIMITS)} has {len(found)} rows of {field}; it needs one"
    assert found[0][1] == shown(getattr(settings(), field))
    assert len(found[0]) == 5 and found[0][3] and found[0][4], f"{field} needs what happens at it, and why"


def test_no_setting_is_documented_that_is_not_there() -> None:
    there = {field.name for settings in (Limits, WireOptions) for field in msgspec.structs.fields(settings)}
    documented = {row[0] for row in rows(LIMITS) if len(row) == 5} - {"setting"}
    assert documented == there


def test_every_close_code_and_request_code_is_documented() -> None:
    documented = {row[0]: row[1] for row in rows(LIMITS) if row[0].isdigit()}
    codes = [*CloseCode, *RequestCode]
    assert documented == {f"{code:d}": code.label for code in codes}


def test_every_reason_of_a_refusal_is_documented() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src" / "gatelink" / "net").glob("*.py"))
    calls = re.findall(r"(?:refuse\(|refused\[|reason = |reason: str = )(.*)", source)
    calls += re.findall(r"Refused\(.*, (\"[a-z-]+\")\)", source)
    used = {reason for call in calls for reason in re.findall(r'"([a-z]+(?:-[a-z]+)*)"', call)}
    assert {"server-full", "verify-failed", "left-unverified", "frame-too-large"} <= used
    documented = {row[0] for row in rows(LIMITS) if len(row) == 2} - {"reason"}
    assert documented == used


# -- the tests that pages name --


@pytest.mark.parametrize("page", [PROMISES, ROOT / "docs" / "threat-model.md"], ids=name)
def test_every_test_that_a_page_names_is_in_the_linked_file(page: Path) -> None:
    items = re.findall(r"^- (.*?)(?=^- |^$|\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    named = 0
    for item in items:
        for test in re.findall(r"`(test_\w+)`", item):
            named += 1
            _, file, _ = next(targets(page, item))
            assert re.search(rf"^(?:async )?def {test}\(", file.read_text(), re.MULTILINE), (
                f"{name(file)} has no {test}"
            )
    assert named > 20


# -- limits that are no settings --


def default(function: Callable[..., Any], argument: str) -> Any:
    return inspect.signature(function).parameters[argument].default


FIXED = {
    "requests of one session that wait for their answers, in each direction": f"{requests.MOST}",
    "the reason of a `Refuse`": f"{MAX_REASON} bytes in UTF-8",
    "renewals of one session": f"one at a time, one in {renewal.LEAST_INTERVAL:g} s",
    "a token in a renewal": f"{renewal.MAX_TOKEN:,} bytes at the client; `max_token` at the server",
    "answers of the gateways to `cluster.count`": f"{COUNT_SECONDS:g} s",
    "sessions written to in one turn of the loop": f"{FLUSH_AT_ONCE}",
    "a PROXY header": f"{MAX_HEADER:,} bytes; 107 of version 1, the specification's",
    "tokens that `MemoryTokens` remembers": f"{default(MemoryTokens, 'max_tokens'):,} (`max_tokens`)",
    "checks of one session's heartbeat, besides its deadlines": (
        f"one in {LEAST_BEAT:g} s; one an interval while its peer takes nothing"
    ),
    "closed sessions of one user with handlers under way, at a service": f"{players.MAX_UNFINISHED}",
    "attempts to reconnect": f"{Backoff().attempts} (`Backoff.attempts`)",
    "a server whose address refuses every attempt to resume": "{:g} to {:g} s".format(*GONE_SECONDS),
    "a standstill of a gateway or service": (
        f"{longest_silence(LINK_LIMITS):g} s: `heartbeat_timeout` of the links less two of their intervals"
    ),
    "players whose losses a service has to report": f"{lost_pushes.MAX_LOST:,}",
    "log lines that wait to be written": f"{log_writer.MAX_WAITING >> 20} MiB",
    "answers of the gateways to a kick": f"{ANSWER_SECONDS:g} s",
    "a login's request to the gateway of the login before": (
        f"{login_arbiter.REPLACE_SECONDS:g} s, asked again every {login_arbiter.REPLACE_PAUSE:g} s "
        "while that gateway may live"
    ),
    "writes of other processes that come before a write of one key: of a user's logins, tokens or kicks": (
        f"{MAX_CONFLICTS}, with random pauses of up to {CONFLICT_PAUSE * MAX_CONFLICTS:g} s"
    ),
    "a login that waits after a loss of the engine": (
        f"{login_arbiter.LOGIN_WAIT:g} s; a gateway accepts none until its sessions' entries are checked, "
        f"{login_arbiter.SETTLE_SECONDS:g} s at most"
    ),
    "checks of entries after a loss": f"{renewals.AT_ONCE} at a time",
    "players that left one service with unhandled messages": f"{MAX_LEAVING:,} for each link",
    "pauses of a background task that failed": f"{tasks.FIRST_PAUSE:g} s, doubled up to {tasks.LONGEST_PAUSE:g} s",
    "bytes of TLS that no message explains": (
        f"{tls_watch.SPARE:,} at once and {tls_watch.SPARE_RATE:,} a second for a connection, looked at once a second"
    ),
    "checks of the files of certificates": f"one in {certificates.INTERVAL:g} s",
    "the admin port": f"{http.MAX_CONNECTIONS} connections, {http.LIFETIME} s each",
    "events and requests between servers that are remembered, so that none is taken twice": (
        f"{authentic.MAX_REMEMBERED:,}, for {authentic.MAX_AGE:g} s; one older than that is refused"
    ),
}
"""By row of the table of limits that are no settings: its limit, made of the source's numbers."""


@pytest.mark.parametrize("what", FIXED)
def test_a_limit_that_is_no_setting_has_the_number_of_the_source(what: str) -> None:
    found = [row[1] for row in rows(LIMITS) if row[0] == what.strip("`")]
    assert found == [FIXED[what]]


def test_kicks_that_are_kept_have_the_numbers_of_the_source() -> None:
    (row,) = [row for row in rows(LIMITS) if row[0].startswith("kicks in one process")]
    hours = user_kicks.KEEP_SECONDS / 3_600
    assert (hours, user_kicks.RETRY) == (1, 1), "the row says an hour, and every second"
    assert row[1] == (
        f"{user_kicks.MAX_WAITING:,}, for an hour each; {user_kicks.WORKERS} at a time, tried again every second"
    )


def test_the_page_of_websocket_has_the_numbers_of_the_source() -> None:
    text = " ".join((ROOT / "docs" / "websocket.md").read_text().split())
    rate, burst = f"{websocket.SMALL_RATE} frames a second", f"({websocket.SMALL_BURST:,} at once)"
    assert f"more than {rate} {burst} that carry fewer than {SMALL} bytes" in text
    assert f"declares over {websocket.LEAST_MESSAGE >> 20} MiB in its fragments" in text


def definitions(path: str) -> dict[str, float]:
    """The numbers of the DEFs in a file of the compiled core, by name."""
    text = (ROOT / "src" / "gatelink" / "native" / path).read_text()
    return {name: float(number) for name, number in re.findall(r"^DEF (\w+) = ([\d.]+)", text, re.MULTILINE)}


REACTOR = definitions("reactor.pxi")
SAID = {
    "operations.md": [
        f"have the rest of the grace, and {process.LEFT:g} s",
        f"this line and the end come {process.SPARE:g} s after the grace",
        f"`limits.max_connections` and {process.OTHER_FILES} more",
        f"(`seen`, red after {top.LATE:g} s)",
        f"first after {supervisor.FIRST_WAIT:g} s, then after twice as long for each early end, "
        f"up to {supervisor.MOST_WAIT:g} s",
        f"After a second signal all of them have {supervisor.HURRY:g} s",
        f"takes {http.MAX_CONNECTIONS} connections at a time, each for at most {http.LIFETIME} s",
        f"was not written for {registry.EXPIRY:g} s",
        f"and at least in the last {families.LAG_SECONDS:g} s",
        f"Lines wait in a queue of {log_writer.MAX_WAITING >> 20} MiB",
        f"looks at the files of its tls:// listeners every {certificates.INTERVAL:g} s",
        f"An async handler that runs for {running_handlers.LONG:g} s is logged once",
        f"After `limits.handler_timeout`, {Limits().handler_timeout:g} s by default",
    ],
    "guide.md": [
        f"{requests.MOST} requests of a session may wait in each direction",
        f"a good token less than {renewal.LEAST_INTERVAL:g} s after the last one",
        f"more than {checks.MAX_COMPARED} fields",
        f"A name has 1 to {groups.MAX_NAME} characters",
        f"`limits.max_slots` ({Limits().max_slots}) is how many devices a user may have",
    ],
    "tour.md": [
        f"it must come within {Limits().verify_timeout:g} s and fit into {Limits().max_unverified_bytes >> 10} KiB",
        f"in one timing wheel with a tick of {timers.TICK:g} s",
        f"All of it takes {Limits().close_timeout:g} s at most",
    ],
    "native.md": [
        f"It accepts {REACTOR['ACCEPTS']:g} connections of a listening socket at once",
        f"after {REACTOR['EVENTS'] * REACTOR['ROUNDS']:,.0f} events or {REACTOR['TURN_TIME'] * 1_000:g} ms",
    ],
}
"""By page: sentences with the source's numbers."""


@pytest.mark.parametrize(("page", "words"), [(page, words) for page, said in SAID.items() for words in said])
def test_a_sentence_has_the_number_of_the_source(page: str, words: str) -> None:
    assert words in " ".join((ROOT / "docs" / page).read_text().split())


def test_the_page_of_the_typescript_sdk_has_the_limits_of_its_source() -> None:
    source = (ROOT / "clients" / "typescript" / "src" / "options.ts").read_text()
    block = source.partition("LIMITS: ClientLimits = {")[2].partition("}")[0]
    found = dict(re.findall(r"^  (\w+): ([\d_ *]+),$", block, re.MULTILINE))
    assert len(found) >= 12
    limits = {name: f"{math.prod(int(each) for each in text.split('*')):,}" for name, text in found.items()}
    shown: dict[str, str] = {}
    for row in rows(ROOT / "docs" / "typescript.md"):
        names = row[0].replace("`", "").split(", ")
        if names[0] in limits:
            shown |= dict(zip(names, re.findall(r"\d[\d,]*", row[1]), strict=True))
    assert shown == limits


# -- translations --

TRANSLATED = {
    ROOT / "README.zh-CN.md": ROOT / "README.md",
    ROOT / "docs/zh-CN/cluster.md": ROOT / "docs/cluster.md",
    ROOT / "docs/zh-CN/protocol.md": ROOT / "docs/protocol.md",
}
"""Each translated page, with its original."""


def skeleton(page: Path) -> tuple[list[str], list[str], list[str]]:
    """The levels of a page's headings, its code, and the files that it links, in their order.

    A link to a translation counts as one to its original.
    """
    text = page.read_text()
    code = re.findall(r"^```.*?^```$|(?:^    [^\n]*\n)+", text, re.MULTILINE | re.DOTALL)
    levels = re.findall(r"^(#+) ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE)
    files = [TRANSLATED.get(file, file) for _, file, _ in targets(page, text) if file != page]
    links = [file.relative_to(ROOT).as_posix() for file in files]
    return levels, code, [link for link in links if not link.startswith("README")]


@pytest.mark.parametrize("page", TRANSLATED, ids=name)
def test_a_translation_has_the_headings_links_and_code_of_its_original(page: Path) -> None:
    levels, code, links = skeleton(TRANSLATED[page])
    assert skeleton(page)[0] == levels, "a heading is missing, or one too many"
    assert skeleton(page)[1] == code, "copy the code of the original"
    assert sorted(skeleton(page)[2]) == sorted(links)


def test_the_chinese_guide_has_what_its_readers_look_for() -> None:
    titles = re.findall(r"^## (.*)$", (ROOT / "docs/zh-CN/guide.md").read_text(), re.MULTILINE)
    wanted = "三分钟上手 词汇对照 断线重连 顶号 踢人 限流 心跳 优雅停服 压测 从原引擎迁移 常见问题".split()
    assert [each for each in wanted if not any(title.startswith(each) for title in titles)] == []
