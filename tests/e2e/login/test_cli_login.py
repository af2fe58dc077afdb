"""`gatelink login` as its users run it: a process, its output, its signals and its exit status."""

import asyncio
import contextlib
import json
import secrets
import signal
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from gatelink.cluster.engines.embedded import NatsServer
from gatelink.login.client import LoginClient, LoginFailed
from tests.processes import Process, ended, python


def gatelink_login(*arguments: str, cwd: Path, **environment: str) -> AbstractAsyncContextManager[Process]:
    return python("-m", "gatelink", "login", *arguments, cwd=cwd, environment=environment)


async def started(process: Process) -> str:
    """The URL that it logs when it listens; it logs in JSON."""
    assert process.stderr is not None
    seen = b""
    async for line in process.stderr:
        seen += line
        if line.startswith(b"{") and (found := json.loads(line))["event"] == "started":
            return str(found["listen"])
    raise AssertionError(f"it ended: {seen.decode()}")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_dev_needs_nothing_and_stops_when_told(stop: signal.Signals, tmp_path: Path) -> None:
    options = ("--dev", "--listen", "http://127.0.0.1:0", "--log-format", "json")
    async with gatelink_login(*options, cwd=tmp_path) as process:
        url = await started(process)
        async with LoginClient(url) as client:
            password = secrets.token_urlsafe(16)
            reply = await client.register("anna", password)
            assert reply.addresses == {"tcp": "tcp://127.0.0.1:7000"}
            assert (await client.login("anna", password)).uid == reply.uid
            old = {"User": "anna", "Password": password}
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                assert (await http.post("/create", json=old)).json()["UID"] == reply.uid
                answer = (await http.post("/login", json=old)).json()
                assert (answer["UID"], answer["LobbyAddr"], answer["HB"]) == (reply.uid, "127.0.0.1:7000", True)
            with pytest.raises(LoginFailed, match="403"):
                await client.login("anna", "wrong")
        process.send_signal(stop)
        status, _, err = await ended(process)
        assert status == 0
        assert password not in err and reply.token not in err
        assert [json.loads(line)["event"] for line in err.splitlines()][-1] == "stopped"
    assert (tmp_path / "gatelink-dev.db").stat().st_mode & 0o077 == 0


CONFIG = """
[engine]
url = "nats://{place}"
user = "gatelink"
password = "env:NATS_PASSWORD"
[accounts]
url = "sqlite:///users.db"
[login]
listen = "http://127.0.0.1:0"
one_token = true
[login.limits]
exempt = []
network = {{free = 5, recovery = 3600}}
[[login.servers]]
name = "play"
id = 7
addresses = ["tls://play.example.com:7443"]
"""


OPTIONS = ("--config", "cluster.toml", "--log-format", "json")


def configured(config: str, nats_server: NatsServer, folder: Path) -> dict[str, str]:
    """Write the configuration of a fresh cluster to `folder`; return the environment that its processes need."""
    nats = urlsplit(nats_server.url)
    text = config.format(place=f"{nats.hostname}:{nats.port}") + f'[cluster]\nname = "test-{secrets.token_hex(4)}"\n'
    (folder / "cluster.toml").write_text(text)
    return {"NATS_PASSWORD": nats.password or ""}


async def test_two_processes_of_one_configuration_are_one_login(nats_server: NatsServer, tmp_path: Path) -> None:
    environment = configured(CONFIG, nats_server, tmp_path)
    async with (
        gatelink_login(*OPTIONS, cwd=tmp_path, **environment) as one,
        gatelink_login(*OPTIONS, cwd=tmp_path, **environment) as other,
    ):
        async with LoginClient(await started(one)) as first, LoginClient(await started(other)) as second:
            uid = (await first.register("anna", "correct horse")).uid
            for client in (second, first, second, first, second):
                reply = await client.login("anna", "correct horse")
                assert reply.uid == uid and reply.addresses == {"tls": "tls://play.example.com:7443"}
            for client in (first, second):
                with pytest.raises(LoginFailed, match="429"):
                    await client.login("anna", "correct horse")


CROWDED = """
[engine]
url = "nats://{place}"
user = "gatelink"
password = "env:NATS_PASSWORD"
[accounts]
url = "sqlite:///users.db"
[login]
listen = "http://127.0.0.1:0"
[login.limits]
exempt = []
request_rate = 1
request_burst = 10
max_connections = 60
[[login.servers]]
name = "play"
id = 7
addresses = ["tcp://play.example.com:7000"]
"""


async def test_neither_a_flood_nor_idle_connections_keep_others_out(nats_server: NatsServer, tmp_path: Path) -> None:
    environment = configured(CROWDED, nats_server, tmp_path)
    body = b'{"token": "x"}'
    logout = b"POST /v1/logout HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async with gatelink_login(*OPTIONS, cwd=tmp_path, **environment) as process:
        url = urlsplit(await started(process))

        async def opened(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(url.hostname, url.port, local_addr=(host, 0))

        others = [await opened(f"127.0.9.{1 + n % 5}") for n in range(150)]
        seen: Counter[bytes] = Counter()
        for _ in range(60):
            reader, writer = await opened("127.0.8.1")
            others.append((reader, writer))
            with contextlib.suppress(ConnectionError):
                writer.write(logout * 3)
                answers = await reader.read()
                seen[answers[9:12]] += 1
                assert answers.count(b"HTTP/1.1") <= 1, "one request at a time"
        assert seen[b"204"] >= 10 and seen[b"429"] >= 10
        async with LoginClient(f"http://{url.netloc}") as client:
            reply = await client.register("anna", "correct horse")
            assert (await client.login("anna", "correct horse")).uid == reply.uid
        for _, writer in others:
            writer.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--config FILE, or --dev"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--config", "nothing.toml"), "has no [login]"),
        (("--config", "alone.toml"), "gatelink up"),
        (("--dev", "--listen", "http://192.0.2.1:80"), "cannot listen on"),
    ],
)
async def test_what_cannot_run_as_given_is_one_line_and_exit_status_78(
    options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    (tmp_path / "nothing.toml").write_text('[engine]\nurl = "nats://127.0.0.1:4222"\n')
    (tmp_path / "alone.toml").write_text("[login]\n")
    async with gatelink_login(*options, cwd=tmp_path) as process:
        status, _, err = await ended(process)
        assert status == 78 and words in err.splitlines()[-1], err
        assert "Traceback" not in err


async def test_an_engine_that_is_away_at_the_start_is_exit_status_1(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text('[engine]\nurl = "nats://127.0.0.1:9"\ntimeout = 0.3\n[login]\n')
    async with gatelink_login("--config", "cluster.toml", cwd=tmp_path) as process:
        status, _, err = await ended(process)
        assert status == 1 and "Traceback" not in err and "127.0.0.1:9" in err
