"""`gatelink config`: what it prints, and its exit status."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatelink import ConfigError
from gatelink.cli import app
from gatelink.settings import load
from gatelink.settings.secret import DEV_SECRET

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "config"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)])


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEV_SECRET, "seed")
    monkeypatch.delenv("GATELINK_CLUSTER_KEY", raising=False)


@pytest.mark.parametrize("example", ["minimal", "complete"])
def test_the_examples_are_good(example: str) -> None:
    result = run("check", EXAMPLES / f"{example}.toml", "--dev")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{EXAMPLES}/{example}.toml: OK: cluster ")
    assert "lobby x" in result.stdout


def test_the_complete_example_has_every_section_and_is_good_with_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_PASSWORD", "ACCOUNTS_PASSWORD", "CLUSTER_KEY", "GATEWAY_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef" * 4)
    file = EXAMPLES / "complete.toml"
    assert run("check", file).exit_code == 0
    settings = load(file)
    assert all(getattr(settings, name) != getattr(type(settings)(), name) for name in type(settings).__struct_fields__
               if name != "tokens")  # fmt: skip


def test_a_bad_file_has_all_its_errors_shown(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[engine]\nurk = "memory"\n[tokens]\nkind = 3\n')
    result = run("check", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [f"{file}:2", f"{file}:4"]


def test_missing_secrets_are_errors_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[tokens]\nkind = "signed"\nsigning_keys = ["file:no"]\n[gateway]\nkeys = ["env:GATELINK_NO"]\n')
    result = run("check", file)
    assert result.exit_code == 1
    for text in (
        ":3: tokens.signing_keys[0]: file:no",
        ":1: cluster.key: env:",
        ":5: gateway.keys[0]: env:GATELINK_NO",
    ):
        assert f"{file}{text}" in result.stderr
    assert run("check", file, "--dev").exit_code == 0


def test_the_public_keys_of_a_login_that_signs_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_SIGNING_KEY", "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    file = tmp_path / "cluster.toml"
    file.write_text('[tokens]\nkind = "signed"\n[login]\n')
    result = run("check", file)
    # RFC 8032, section 7.1, test 1
    assert "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" in result.stdout
    assert "9d61" not in result.stdout


def test_only_what_will_run_needs_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("[login]\n")
    assert run("check", file).exit_code == 0


def test_what_is_shown_is_in_force_and_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATELINK_CLUSTER_KEY", "5ec4e7")
    file = tmp_path / "cluster.toml"
    file.write_text("[limits]\nmax_frame = 4096\n")
    result = run("show", file)
    assert result.exit_code == 0
    assert "max_frame = 4096\n" in result.stdout and "max_token = 1000\n" in result.stdout
    assert 'key = "env:GATELINK_CLUSTER_KEY"' in result.stdout and "5ec4e7" not in result.stdout


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_file_that_is_not_there_can_not_be_run(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path / "none.toml")
    assert isinstance(result.exception, ConfigError)


LOBBY = """\
from gatelink import Service
lobby = Service("lobby", type=21)
other = Service("other", type=21)
number = 3
"""


@pytest.mark.parametrize(
    ("run_is", "problem"),
    [
        ("svc:sv", "4: services.lobby.run: module svc has no sv; it has svc:lobby, svc:other"),
        ("svs:lobby", "4: services.lobby.run: no module 'svs'; looked in "),
        ("svc:number", "4: services.lobby.run: svc:number is a int, not a Service; it has svc:lobby, svc:other"),
        ("svc:other", "4: services.lobby.run: "),
        ("failing:lobby", "4: services.lobby.run: module failing can't be imported: ValueError, see above"),
        ("ending:lobby", "4: services.lobby.run: module ending can't be imported: SystemExit, see above"),
        ("stopped:lobby", "4: services.lobby.run: module stopped can't be imported: KeyboardInterrupt, see above"),
    ],
)
def test_what_a_service_runs_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_is: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "svc.py").write_text(LOBBY)
    (tmp_path / "failing.py").write_text("raise ValueError('on purpose')\n")
    (tmp_path / "ending.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "cluster.toml").write_text(f'[gateway]\n[services.lobby]\ntype = 21\nrun = "{run_is}"\n')
    result = run("check", "cluster.toml", "--dev")
    assert result.exit_code == 1
    assert f"cluster.toml:{problem}" in result.stderr


def test_a_type_that_is_not_the_services_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "typed.py").write_text(LOBBY)
    (tmp_path / "cluster.toml").write_text('[services.lobby]\ntype = 22\nrun = "typed:lobby"\n')
    result = run("check", "cluster.toml", "--dev")
    assert result.exit_code == 1
    assert "services.lobby.type is 22, but typed:lobby has type 21" in result.stderr


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_can_not_be_used_is_found(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[gateway]\nlisten = [\n  { endpoint = "tls://127.0.0.1:0", certificate = "chain.pem" },\n]\n')
    if content is not None:
        (tmp_path / "chain.pem").write_text(content)
    result = run("check", file, "--dev")
    assert result.exit_code == 1
    assert f"{file}:3: gateway.listen[0]: " in result.stderr and str(tmp_path / "chain.pem") in result.stderr


@pytest.mark.parametrize(
    ("admin", "fix"),
    [
        (":9100", "write it as 127.0.0.1:9100"),
        ("9100", "write it as 127.0.0.1:9100 or [::1]:9100"),
        ("http://127.0.0.1:9100", "write it as 127.0.0.1:9100 or [::1]:9100"),
        ("::1:9100", "write it as 127.0.0.1:9100 or [::1]:9100"),
        ("127.0.0.1:65535", "process 2 would listen on port 65536"),
    ],
)
@pytest.mark.parametrize("section", ["[gateway]", '[services.lobby]\ntype = 41\nrun = "examples.arena.services:lobby"'])
def test_an_admin_address_that_is_none_is_found(tmp_path: Path, section: str, admin: str, fix: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(f'{section}\ncount = 2\nadmin = "{admin}"\n')
    result = run("check", file, "--dev")
    assert result.exit_code == 1
    assert f"{file}:{len(section.splitlines()) + 2}: " in result.stderr and fix in result.stderr


LOBBY_SECTION = '[services.lobby]\ntype = 41\nrun = "examples.arena.services:lobby"\n'
NATS = '[engine]\nurl = "nats://127.0.0.1:4222"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[gateway]\nlisten = ["tcp://127.0.0.1:7000"]\nadmin = "127.0.0.1:7000"\n', ":3: gateway.admin: process 1"),
        ('[gateway]\nlisten = ["tcp://0.0.0.0:7000"]\nadmin = "127.0.0.1:7000"\n', ":3: gateway.admin: process 1"),
        ('[gateway]\nlisten = ["tcp://[::]:7000"]\ninner = "tcp://[::1]:7000"\n', ":3: gateway.inner: process 1"),
        ('[gateway]\nlisten = ["tcp://127.0.0.1:7000"]\nadmin = "localhost:7001"\ncount = 2\n',
         ":2: gateway.listen[0]: process 2 would listen on port 7001, as gateway.admin of process 1 does"),
        ('[login]\nlisten = "http://127.0.0.1:7000"\n[gateway]\n', ":3: gateway.listen"),
        ('[gateway]\nadmin = "127.0.0.1:9100"\ncount = 2\n' + LOBBY_SECTION + 'admin = "127.0.0.1:9101"\n',
         ":7: services.lobby.admin: process 1 would listen on port 9101, as gateway.admin of process 2 does"),
        ('[gateway]\n' + LOBBY_SECTION + 'inner = "unix:///run/lobby.sock"\ncount = 2\n', ":5: services.lobby.inner"),
        (NATS + LOBBY_SECTION + 'inner = "tcp://127.0.0.1:930"\nadmin = "127.0.0.1:930"\n', ":7: services.lobby.admin"),
    ],
)  # fmt: skip
def test_a_port_that_is_used_twice_is_found(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    result = run("check", file, "--dev")
    assert result.exit_code == 1
    assert f"{file}{problem}" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        '[gateway]\nlisten = ["tcp://127.0.0.1:0"]\nadmin = "127.0.0.1:0"\ncount = 2\n',
        '[gateway]\nlisten = ["tcp://127.0.0.1:7000"]\nadmin = "127.0.0.2:7000"\n',
        '[gateway]\nlisten = ["tcp://0.0.0.0:7000", "tcp://[::]:7000"]\n',
        NATS + '[gateway]\nadmin = "127.0.0.1:9100"\n' + LOBBY_SECTION + 'admin = "127.0.0.1:9100"\n',  # two machines
    ],
)
def test_ports_that_differ_or_may_be_of_two_machines_are_good(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    result = run("check", file, "--dev")
    assert result.exit_code == 0, result.stderr


SHARED = '[engine]\nurl = "nats://127.0.0.1:4222,nats://nats-2.example.com:4222"\n[login]\n'
URL_OF_POSTGRES = '[accounts]\nurl = "postgresql://me@10.0.0.5/accounts"\n'


@pytest.mark.parametrize(
    "text",
    [
        SHARED,
        SHARED + '[accounts]\nurl = "sqlite:////srv/accounts.db"\n',
        SHARED + '[accounts]\nurl = "sqlite+aiosqlite:///accounts.db"\n',
        SHARED.replace("nats://127.0.0.1:4222,", ""),
        SHARED.replace("nats-2.example.com", "10.0.0.2"),
    ],
)
def test_accounts_in_a_file_on_each_machine_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    result = run("check", file, "--dev")
    assert result.exit_code == 1
    assert "accounts.url: is a file of SQLite" in result.stderr and "postgresql://" in result.stderr, result.stderr


@pytest.mark.parametrize(
    "text",
    [
        SHARED + URL_OF_POSTGRES,
        SHARED.replace("[login]\n", ""),  # a machine without a login
        NATS + "[login]\n",
        NATS.replace("127.0.0.1", "[::1]") + "[login]\n",
        NATS.replace("127.0.0.1", "localhost") + "[login]\n",
        "[login]\n",  # the engine of `gatelink up`
    ],
)
def test_accounts_in_a_file_are_for_one_machine(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    result = run("check", file, "--dev")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("content", [None, "<html>", '{"keys": []}'])
def test_a_key_set_that_can_not_be_used_is_found(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        '[login]\nmethods = ["oidc"]\n[login.oidc]\nissuer = "https://id.example"\naudience = "a"\njwks = "keys.json"\n'
    )
    if content is not None:
        (tmp_path / "keys.json").write_text(content)
    result = run("check", file, "--dev")
    assert result.exit_code == 1
    assert f"{file}:6: login.oidc.jwks: {tmp_path / 'keys.json'}" in result.stderr
