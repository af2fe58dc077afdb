"""The import rule of docs/architecture.md, checked on the source itself."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gatelink"


def sources(part: str = "") -> list[Path]:
    """The source files of `gatelink.<part>`, a module or a package; of all of gatelink by default."""
    found = sorted((SOURCE / part).rglob("*.py")) + sorted(SOURCE.glob(f"{part}.py"))
    assert found, f"src/gatelink has neither {part}.py nor {part}/; has it moved? Then this test must know"
    return found


def where(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import in `path`, wherever it stands; `from a import b` is a.b."""
    return list(imports_of(path))


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    package = ["gatelink", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def imported(paths: list[Path]) -> Iterator[tuple[str, str, str]]:
    """(file:line, top package, name within it) of every import in `paths`: `gatelink.wire.frames` is gatelink, wire."""
    for path in paths:
        for line, name in imports(path):
            top, _, rest = name.partition(".")
            yield f"{where(path)}:{line} imports {name}", top, rest.partition(".")[0]


def assert_imports_only(part: str, allowed: set[str]) -> None:
    wrong = [text for text, top, name in imported(sources(part)) if top == "gatelink" and name not in allowed]
    assert not wrong, f"of gatelink, {part} may import only {', '.join(sorted(allowed))}, but\n" + "\n".join(wrong)


def assert_nobody_imports(paths: list[Path], banned: set[str], why: str) -> None:
    wrong = [text for text, top, _ in imported(paths) if top in banned]
    assert not wrong, f"{why}, but\n" + "\n".join(wrong)


def test_wire_imports_nothing_of_ours_but_errors_config_and_the_choice_of_the_core() -> None:
    assert_imports_only("wire", {"errors", "config", "_native", "wire"})


def test_wire_knows_no_loop_socket_clock_or_log() -> None:
    banned = {"asyncio", "uvloop", "socket", "time", "datetime", "logging", "structlog"}
    assert_nobody_imports(
        sources("wire"), banned, "wire turns bytes into messages and knows no loop, socket, clock or log"
    )


def test_session_imports_nothing_above_wire() -> None:
    assert_imports_only("session", {"_native", "errors", "config", "logger", "stats", "calls", "wire", "session"})


def test_handlers_import_nothing_above_session() -> None:
    below = {"_native", "errors", "config", "logger", "stats", "calls", "wire", "session"}
    assert_imports_only("handling", below | {"handling"})
    assert_imports_only("handlers", below | {"handling"})


def test_deadlines_have_one_clock_the_wheel_s() -> None:
    """`perf_counter` may measure, `time.time` may date; what is compared with a deadline is read from `wheel.clock`."""
    engines = SOURCE / "cluster" / "engines"  # an engine has a clock of its own, which tests give it
    parts = [path for part in ("session", "net", "cluster", "handling", "handlers", "server") for path in sources(part)]
    wrong = []
    for path in parts:
        if engines in path.parents:
            continue
        wrong += [f"{where(path)}:{line} imports {name}" for line, name in imports(path) if name == "time.monotonic"]
        for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
            match node:
                case ast.Call(func=ast.Attribute(value=of, attr="time" | "monotonic" as name)):
                    text = ast.unparse(of)
                    if text.endswith("loop") or text.endswith("loop()") or name == "monotonic":
                        wrong.append(f"{where(path)}:{node.lineno} calls {text}.{name}()")
    assert not wrong, "deadlines are read from one clock, Wheel.clock, but\n" + "\n".join(wrong)


def test_only_our_logger_calls_structlog_s() -> None:
    """structlog's own raises what the program's set-up raises."""
    wrong = [
        f"{where(path)}:{node.lineno}"
        for path in sources()
        if where(path) != "logger.py"
        for node in ast.walk(ast.parse(path.read_text(), filename=str(path)))
        if isinstance(node, ast.Attribute) and node.attr in ("get_logger", "getLogger", "wrap_logger")
        if ast.unparse(node) != "logging.getLogger"
    ]
    assert not wrong, "a line is logged with gatelink.logger.Logger, which raises nothing, but see\n" + "\n".join(wrong)


def test_net_imports_nothing_that_sits_on_it() -> None:
    on_top = {"server", "cluster", "auth", "cli", "testing"}
    wrong = [
        text
        for path in sources("net")
        for line, name in imports(path)
        for text in [f"{where(path)}:{line} imports {name}"]
        if name.split(".")[:1] == ["gatelink"]
        and name.split(".")[1] in on_top
        and not name.startswith("gatelink.auth.tokens.")  # the interface of the login check, which stands on nothing
    ]
    assert not wrong, f"net is below {', '.join(sorted(on_top))}, but\n" + "\n".join(wrong)


def test_engines_know_nothing_of_servers_and_sessions() -> None:
    assert_imports_only("cluster/engine", {"errors", "tasks"})
    for path in sources("cluster/engines"):
        wrong = [
            name
            for _, name in imports(path)
            if name.startswith("gatelink.")
            and not name.startswith(
                (
                    "gatelink.errors.",
                    "gatelink.logger.",
                    "gatelink.tasks",
                    "gatelink.ops.supervisor.tied_to_parent",
                    "gatelink.cluster.engine.",
                    "gatelink.cluster.engines.",
                )
            )
        ]
        assert not wrong, f"{where(path)} imports {', '.join(wrong)}; an engine knows keys, events and requests"


def test_only_the_nats_engine_imports_nats() -> None:
    others = [path for path in sources() if where(path) != "cluster/engines/nats_client.py"]
    assert_nobody_imports(others, {"nats"}, "only cluster/engines/nats_client.py knows nats-py")


def test_the_login_service_stands_on_accounts_tokens_and_engine_alone() -> None:
    assert_imports_only(
        "login",
        {
            "errors",
            "config",
            "logger",
            "calls",
            "tasks",
            "auth",
            "cluster",
            "login",
            "net",
            "ops",
            "session",
            "settings",
            "version",
        },
    )
    of_session = {name for path in sources("login") for _, name in imports(path) if name.startswith("gatelink.session")}
    assert of_session == {"gatelink.session.rates.TokenBucket"}, "login knows no sessions"


def test_only_the_small_http_server_imports_uvicorn() -> None:
    others = [path for path in sources() if where(path) != "ops/http.py"]
    assert_nobody_imports(others, {"uvicorn"}, "only ops/http.py knows uvicorn")


def test_only_the_login_api_imports_litestar() -> None:
    others = [path for path in sources() if where(path) != "login/api.py"]
    assert_nobody_imports(others, {"litestar"}, "only login/api.py knows litestar")


def test_auth_knows_no_http_and_nothing_of_the_login_service() -> None:
    wrong = [text for text, top, name in imported(sources("auth")) if top == "gatelink" and name in {"login", "server"}]
    assert not wrong, "auth is below login and server, but\n" + "\n".join(wrong)


def test_only_auth_imports_the_libraries_of_accounts() -> None:
    """They come with the extra `login`, so `gatelink.auth` itself, which everybody imports, needs none of them."""
    libraries = {"sqlalchemy", "alembic", "aiosqlite", "asyncpg", "argon2", "joserfc"}
    others = [path for path in sources() if not where(path).startswith("auth/")]
    others += [path for path in sources("auth") if where(path) in ("auth/__init__.py", "auth/tokens.py")]
    assert_nobody_imports(others, libraries, "only accounts and ways to log in know their database and key libraries")


def test_the_package_imports_no_tests_or_benchmarks() -> None:
    banned = {"tests", "benchmarks", "examples", "fuzz", "pytest", "hypothesis"}
    assert_nobody_imports(sources(), banned, "the package runs without the rest of the repository")


def test_a_schema_knows_messages_and_codecs_alone() -> None:
    assert_imports_only("schema", {"errors", "wire", "schema"})
