"""A configuration file is read whole, or every error in it is told: the file, the line, what is wrong, and the fix."""

from pathlib import Path

import pytest

from gatelink.errors import ConfigError
from gatelink.settings import Secret, Settings, SettingsError, load
from gatelink.settings.show import show, toml

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "config"


def read(folder: Path, text: str) -> Settings:
    file = folder / "cluster.toml"
    file.write_text(text)
    return load(file)


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with a file: `line: text`."""
    with pytest.raises(SettingsError) as caught:
        read(folder, text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    prefix = f"{folder / 'cluster.toml'}:"
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def test_an_empty_file_has_every_default(tmp_path: Path) -> None:
    settings = read(tmp_path, "")
    assert (settings.engine.url, settings.tokens.kind, settings.limits.max_frame) == ("embedded", "engine", 102_400)
    assert settings.login is None and settings.gateway is None and settings.services == {}
    assert settings.cluster.key == Secret("env:GATELINK_CLUSTER_KEY")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert read(tmp_path, '\ufeff[engine]\nurl = "memory"').engine.url == "memory"


def test_paths_begin_at_the_folder_of_the_file(tmp_path: Path) -> None:
    settings = read(
        tmp_path, '[engine]\ndata = "store"\n[gateway]\nlisten = [{endpoint = "tls://h:1", certificate = "a"}]'
    )
    assert settings.engine.data == tmp_path / "store"
    assert settings.accounts.url == f"sqlite:///{tmp_path}/data/accounts.db"
    assert settings.gateway is not None and settings.gateway.listen[0].certificate == tmp_path / "a"
    assert read(tmp_path, '[engine]\ndata = "/var/lib/x"').engine.data == Path("/var/lib/x")
    for url in ("sqlite:////var/x.db", "postgresql://me@h/db"):
        assert read(tmp_path, f'[accounts]\nurl = "{url}"').accounts.url == url


def test_every_error_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
[engine]
url = "nats://a:4222"
timeot = 3

[tokens]
kind = "signd"
lifetime = inf

[gateway]
count = "3"
listen = [
    "tcp://0.0.0.0:7000",
    "udp://0.0.0.0",
]

[services.Lobby]
run = 3

[services.room]
type = 11

[limits]
max_frame = 0

[[login.servers]]
name = "a"
id = 1
addresses = ["tcp://h:1"]

[[login.servers]]
name = "b"
id = 0
addresses = []

[logins]
"""
    assert problems(tmp_path, text) == [
        "3: engine.timeot: there is no such key; did you mean timeout?",
        '6: tokens.kind: must be "engine" or "signed", not "signd"; did you mean "signed"?',
        "7: tokens.lifetime: must be a finite number",
        "10: gateway.count: must be a whole number, not a string; write it as count = 3",
        "13: gateway.listen[1]: not an endpoint: 'udp://0.0.0.0': write it as tcp://host:port, tls://host:port, "
        "ws://host:port, tcp://[::1]:7000 or unix:///run/gate.sock",
        '16: services.Lobby: must be up to 32 of a-z 0-9 _ -, a letter first, as "lobby"',
        "16: services.Lobby: type is missing; write type = 10",
        '17: services.Lobby.run: must be a string, not a whole number; write it as run = "text"',
        '19: services.room: run is missing; write run = "mygame.lobby:service"',
        "23: limits: max_frame is 0; it must be above 0",
        "32: login.servers[1].id: is 0; it must be at least 1 and at most 9223372036854775807",
        "35: logins: there is no such key; did you mean login?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("engine = 3", "1: engine: must be a table, not a whole number; write it as [engine]"),
        ("[engine]\nurl = 3", '2: engine.url: must be a string, not a whole number; write it as url = "embedded"'),
        (
            "[engine]\ntimeout = true",
            "2: engine.timeout: must be a number, not true or false; write it as timeout = 2.0",
        ),
        ("[engine]\ntimeout = 0", "2: engine.timeout: is 0; it must be above 0"),
        (
            "[engine]\ntimeout = 1979-05-27",
            "2: engine.timeout: must be a number, not a date or time; write it as timeout = 2.0",
        ),
        ("[engine]\ndata = 1", '2: engine.data: must be a string, not a whole number; write it as "path/to/file"'),
        ("[tokens]\nsigned_lifetime = 61", "2: tokens.signed_lifetime: is 61; it must be above 0 and at most 60"),
        ("[tokens]\nfirst_use = 50\nlifetime = 40", "2: tokens: first_use is 50 s, longer than the lifetime, 40 s"),
        (
            '[tokens]\nkind = "signed"\nsigning_keys = []',
            '3: tokens: signing_keys is empty; write it as signing_keys = ["file:keys/signing.key"]',
        ),
        (
            '[tokens]\npublic_keys = ["abc"]',
            '2: tokens.public_keys[0]: must be 32 bytes as 64 hex digits, as "29fd0138..."',
        ),
        (
            '[gateway]\nlisten = "tcp://h:1"',
            '2: gateway.listen: must be an array, not a string; write it as listen = ["tcp://h:1"]',
        ),
        ("[gateway]\nlisten = []", '2: gateway: listen is empty; write it as listen = ["tcp://0.0.0.0:7000"]'),
        (
            '[gateway]\nlisten = ["tls://h:1"]',
            '2: gateway.listen[0]: endpoint tls://h:1 needs a certificate; write certificate = "tls/chain.pem"',
        ),
        (
            '[gateway]\ncount = 2\nlisten = ["tcp://h:1", "tcp://h:2"]',
            "3: gateway: listen: 2 would be on tcp://h:2; each of 2 takes the next port",
        ),
        ("[gateway]\nsealed_only = true", '2: gateway: sealed_only needs keys; write keys = ["file:keys/gateway.key"]'),
        (
            '[gateway]\ninner = "h:1"',
            "2: gateway: inner: not an endpoint: 'h:1': write it as tcp://host:port, "
            "tls://host:port, ws://host:port, tcp://[::1]:7000 or unix:///run/gate.sock",
        ),
        (
            '[gateway.routes]\n"11000-11999" = "lobby"',
            "2: gateway.routes.11000-11999: there is no service 'lobby'; [services] has none",
        ),
        ('[services.a]\ntype = 1\nrun = "a:b"', "2: services.a.type: is 1; it must be at least 2 and at most 255"),
        ('[services.a]\ntype = 300\nrun = "a:b"', "2: services.a.type: is 300; it must be at least 2 and at most 255"),
        (
            '[services.a]\ntype = 11\nrun = "a.py"',
            "3: services.a: run is 'a.py', not MODULE:OBJECT; write it as run = \"mygame.lobby:service\"",
        ),
        (
            '[services.a]\ntype = 11\nrun = "a:b"\n[services.b]\ntype = 11\nrun = "a:b"\nfirst_id = 9',
            "5: services.b.type: services.a has type 11 too; give each its own",
        ),
        (
            '[gateway]\nfirst_id = 9\n[services.b]\ntype = 11\nrun = "a:b"\nfirst_id = 9',
            "6: services.b.first_id: gateway has the server id 9 too; give each its own",
        ),
        (
            '[services.gateway]\ntype = 11\nrun = "a:b"',
            "1: services.gateway: gateways have that name; give the service another",
        ),
        (
            "[wire]\nscramble_key = 'xx'",
            '2: wire.scramble_key: must be hex digits; write it as scramble_key = "29fd0138"',
        ),
        ("[wire]\nscramble_key = '00'", "2: wire: scramble_key has 1 byte; it must have 8"),
        (
            '[login]\nmethods = ["oidc"]',
            "2: login: methods has oidc, but there is no [login.oidc]; give its issuer, audience and jwks",
        ),
        (
            '[login]\nlisten = ":80"',
            "2: login: listen: login cannot listen on ':80'; write it as http://127.0.0.1:8080 "
            "(for TLS put a reverse proxy in front)",
        ),
        (
            '[login]\nlisten = "https://127.0.0.1:443"',
            "2: login: listen: login cannot listen on 'https://127.0.0.1:443'; write it as http://127.0.0.1:8080 "
            "(for TLS put a reverse proxy in front)",
        ),
        (
            '[login.oidc]\nissuer = "https://a"\naudience = ""\njwks = "keys.json"',
            '3: login.oidc: audience is empty; write our client id there, as audience = "my-game"',
        ),
        (
            '[login.oidc]\nissuer = "https://a"\naudience = "b"\njwks = "http://a/keys"',
            "4: login.oidc: jwks: keys from http://a/keys: it must be https, http on loopback, or a file's path",
        ),
        ("[login]\nservers = {}", "2: login.servers: must be an array, not a table; write it as [[login.servers]]"),
        (
            '[[login.servers]]\nname = "a"\nid = 1\naddresses = ["h:1"]',
            "4: login.servers[0]: addresses: not an endpoint: 'h:1': write it as tcp://host:port, "
            "tls://host:port, ws://host:port, tcp://[::1]:7000 or unix:///run/gate.sock",
        ),
        (
            '[[login.servers]]\nname = "a"\nid = 1\naddresses = ["tcp://h:1"]\n'
            '[[login.servers]]\nname = "b"\nid = 1\naddresses = ["tcp://h:1"]',
            "7: login: servers.1.id: servers[0] has 1 too; give each its own",
        ),
        (
            '[login.limits]\nexempt = ["x"]',
            "2: login.limits: exempt: not a network: 'x' ('x' does not appear to be an IPv4 or IPv6 network); "
            "write it as 10.0.0.0/8 or ::1/128",
        ),
        (
            '[login]\nproxies = ["10.0.0.1/8"]',
            "2: login: proxies: not a network: '10.0.0.1/8' (10.0.0.1/8 has host bits set); write it as 10.0.0.0/8",
        ),
        (
            '[engine]\nurl = "redis://h"',
            '2: engine: url names no known engine; write "embedded", "memory", or servers, as '
            '"nats://10.0.0.1:4222,nats://10.0.0.2:4222"',
        ),
        ('[engine]\nuser = "a"', "2: engine: user and password go together; give both or neither"),
        (
            '[engine]\nuser = "a"\npassword = "env:B"',
            "2: engine: user is for servers of NATS, but url is embedded; give their URLs, or leave it out",
        ),
        ('[engine]\nurl = "nats://a"\nreplicas = 2', "3: engine.replicas: must be 1 or 3 or 5, not 2"),
        (
            '[engine]\nurl = "nats://a"\ncredentials = "/dev/null"',
            "3: engine: credentials: /dev/null is not a file; write the path of what `nsc` made",
        ),
        (
            "[tokens]\nlifetime = 1e9",
            "2: tokens.lifetime: is 1000000000.0; it must be above 0 and at most 315360000",
        ),
        (
            '[accounts]\nurl = "mysql://h"',
            '2: accounts: url names no known database; write it as "sqlite:///data/accounts.db" or '
            '"postgresql://user@host:5432/database"',
        ),
        (
            '[accounts]\nurl = "postgresql://me@[::1/game"',
            '2: accounts: url names no known database; write it as "sqlite:///data/accounts.db" or '
            '"postgresql://user@host:5432/database"',
        ),
        (
            '[accounts]\nurl = "postgresql://me@h:99999/game"',
            '2: accounts: url names no known database; write it as "sqlite:///data/accounts.db" or '
            '"postgresql://user@host:5432/database"',
        ),
        (
            '[accounts]\nurl = "sqlite:///:memory:"',
            '2: accounts: url names no file; write it as "sqlite:///data/accounts.db"',
        ),
        (
            '[accounts]\nurl = "postgresql://me@h/game?password=s3cret"',
            '2: accounts: url holds a password; write it as password = "env:NAME" or "file:PATH"',
        ),
        (
            "[accounts.argon2]\nmemory_kib = 99999999999",
            "2: accounts.argon2.memory_kib: is 99999999999; it must be at least 8 and at most 4194304",
        ),
        (
            "[accounts.argon2]\nmemory_kib = 8\nparallelism = 2",
            "2: accounts.argon2: memory_kib is 8; Argon2 needs 8 for each of 2 lanes",
        ),
        (
            "[login.limits.pair]\nfree = 0",
            "2: login.limits.pair: free 0, recovery 300 s, first 1 s, longest 300 s: free "
            "must be 1 or more, the times from 0.001 to 1e9, and first at most longest",
        ),
        ("\na = = 1", "2: not valid TOML: Invalid value"),
        ("[a", "1: not valid TOML: Expected ']' at the end of a table declaration"),
        ("a = " + "[" * 2_000, "1: arrays or tables are nested too deeply; nothing here needs more than three"),
    ],
)
def test_an_error_says_where_what_and_the_fix(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_what_is_written_for_a_rule_keeps_the_others_of_its_default(tmp_path: Path) -> None:
    settings = read(tmp_path, "[login.limits.pair]\nfree = 3")
    assert settings.login is not None
    assert (settings.login.limits.pair.free, settings.login.limits.pair.recovery) == (3, 300)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('[cluster]\nkey = "5ec4e7"', "5ec4e7"),
        ('[gateway]\nkeys = ["file:a", "5ec4e7"]', "5ec4e7"),
        ('[engine]\nurl = "nats://me:5ec4e7@h:1"', "5ec4e7"),
        ('[accounts]\nurl = "postgresql://me:5ec4e7@h/db"', "5ec4e7"),
        ('[accounts]\nurl = "postgresql://me@h/db"\npassword = "5ec4e7"', "5ec4e7"),
        ('[cluster]\nkey = "env:5ec4e7 x"', "5ec4e7"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, text: str, secret: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert secret not in problem
    assert "env:NAME" in problem


def test_what_can_not_be_read_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "cluster.toml").write_bytes(b"a = 1\n# \xff")
    with pytest.raises(SettingsError, match=r"cluster\.toml:2: not UTF-8"):
        load(tmp_path / "cluster.toml")


def test_routes_are_the_types_of_services(tmp_path: Path) -> None:
    service = '[services.lobby]\ntype = 11\nrun = "a:b"\n'
    settings = read(tmp_path, service + '[gateway.routes]\n"12000-12099" = "lobby"\n"12100" = "lobby"')
    assert settings.routes == {"12000-12099": 11, "12100": 11}
    wrong = service + '[gateway.routes]\n"12000-12099" = "lobby"\n"12050" = "lobby"'
    (problem,) = problems(tmp_path, wrong)
    assert problem.startswith("4: gateway.routes: routes '12000-12099' and '12050' both have id 12050")


def test_server_ids_follow_from_the_type(tmp_path: Path) -> None:
    settings = read(tmp_path, '[services.a]\ntype = 11\ncount = 3\nrun = "a:b"')
    assert list(settings.services["a"].ids) == [11_001, 11_002, 11_003]


@pytest.mark.parametrize("example", ["minimal", "complete"])
def test_what_is_shown_reads_back_as_the_same(tmp_path: Path, example: str) -> None:
    settings = load(EXAMPLES / f"{example}.toml")
    assert read(tmp_path, show(settings)) == settings


def test_any_string_is_shown_so_that_it_reads_back(tmp_path: Path) -> None:
    odd = 'a "b" \\ \t\n\x00\x7f\u20ac\U0001f600 # [x]'
    settings = read(tmp_path, f"[login.oidc]\nissuer = 'https://a'\naudience = {toml(odd)}\njwks = 'https://a/k'")
    assert settings.login is not None and settings.login.oidc is not None
    assert settings.login.oidc.audience == odd
    assert read(tmp_path, show(settings)) == settings


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('[gateway]\ncount = "2"', "write it as count = 2"),
        ('[gateway]\ndrain_seconds = "30s"', "write it as drain_seconds = 30"),
        ('[gateway]\ncount = "two"', "write it as count = 1"),
        ('[gateway]\nsealed_only = "true"', "write it as sealed_only = true"),
        ("[gateway]\nadmin = 9100", 'write it as admin = "127.0.0.1:9100"'),
        ('[[services]]\nname = "lobby"', "write it as [services.NAME]"),
        (
            '[services.a]\ntype = 21\nrun = "a:a"\n[services.b]\ntype = 21\nrun = "b:b"',
            "5: services.b.type: services.a has type 21 too; give each its own",
        ),
        ('[gateway]\nlisten = [{endpoint = "tcp://h:1", proxies = ["10.0.0.7/24"]}]', "write it as 10.0.0.0/24"),
        ('[login]\nproxies = ["fd00::7/64"]', "write it as fd00::/64"),
        ("[gateway]\nsealed_only = True", "write true or false"),
        ("[gateway]\nsealed_only = yes", "write true or false"),
        ('[engine]\ndata = "C:\\Users\\anna"', "a backslash in"),
        ("[gateway]\nlisten = [“tcp://127.0.0.1:7000”]", "write straight quotes"),
        ("[gateway]\nlisten = [tcp://127.0.0.1:7000]", "a text needs quotes"),
        ('[gateway]\nlisten: ["tcp://127.0.0.1:7000"]', "write = between a key and its value"),
        ("[gateway]\rcount = 2\r", "its lines end with CR alone"),
    ],
)
def test_a_hint_says_what_was_meant(tmp_path: Path, text: str, hint: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert hint in problem
