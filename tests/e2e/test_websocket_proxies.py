"""Two gateways behind one name: nginx and HAProxy, with the configurations of deploy/."""

import asyncio
import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples.demo import reserved_ports
from gatelink import CloseCode, ConnectError, Handlers, Listen, Session, connect
from gatelink.net.dialer import Backoff
from tests.e2e.support import CATALOG, Echo, EchoServer, make_certificate, serving, token_of, until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KINDS = ["nginx", "haproxy"]
SOON = Backoff(first=0.05, most=0.2, attempts=200)


class Proxy:
    """A proxy of `kind` before two gateways, with TLS."""

    def __init__(self, kind: str, folder: Path, port: int) -> None:
        self.kind = kind
        self.port = port
        self._folder = folder
        self._pems = [folder / "certificate.pem", folder / "key.pem"]
        self._certificate, self._key, self.tls = make_certificate(folder)
        self._command: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def address(self, gate: int = 0) -> str:
        """Its address; that of one gateway, if `gate` is given."""
        return f"wss://127.0.0.1:{self.port}" + (f"/gates/{gate}" if gate else "")

    def listen(self, gate: int, resume_at: str = "") -> Listen:
        return Listen(
            endpoint="ws://127.0.0.1:0",
            proxies=("127.0.0.1/32",),
            tls="terminated",
            resume_at=resume_at or self.address(gate),
        )

    async def start(self, *gates: EchoServer) -> None:
        text = (DEPLOY / self.kind / ("gatelink.conf" if self.kind == "nginx" else "haproxy.cfg")).read_text()
        both = self._folder / "both.pem"
        both.write_text("".join(path.read_text() for path in self._pems))
        changes = {
            "/etc/gatelink/tls/chain.pem": self._certificate,
            "/etc/gatelink/tls/key.pem": self._key,
            "/etc/gatelink/tls/both.pem": str(both),
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "bind :443 ssl": f"bind 127.0.0.1:{self.port} ssl",
            "worker_shutdown_timeout 30s": "worker_shutdown_timeout 1s",  # the test does not want to wait
            "worker_processes auto": "worker_processes 1",
            **{f"127.0.0.1:{7801 + index}": f"127.0.0.1:{gate.endpoint.port}" for index, gate in enumerate(gates)},
        }
        for before, after in changes.items():
            text = text.replace(before, after)
        if self.kind == "nginx":
            names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            paths = "".join(f"{name}_temp_path {self._folder}/{name};\n" for name in names)
            text = text.replace("http {", f"http {{\naccess_log off;\n{paths}")
            text = f"pid {self._folder}/nginx.pid;\ndaemon off;\nerror_log {self._folder}/error.log;\n{text}"
        else:
            text = "global\n    hard-stop-after 1s\n" + text
        path = self._folder / "proxy.conf"
        path.write_text(text)
        if self.kind == "nginx":
            command = ["-p", str(self._folder), "-e", f"{self._folder}/error.log", "-c", str(path)]
        else:
            command = ["-db", "-f", str(path)]
        self._command = [shutil.which(self.kind) or self.kind, *command]
        process = self._run(*self._command)
        await until(lambda: process.poll() is not None or self._answers())
        assert process.returncode is None, (self._folder / "output").read_text()

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        self._processes.append(process)
        return process

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def reload(self) -> None:
        """nginx starts new workers. A new HAProxy takes the port, and tells the old one to end."""
        old = self._processes[-1]
        if self.kind == "nginx":
            old.send_signal(signal.SIGHUP)
        else:
            self._run(*self._command, "-sf", str(old.pid))

    async def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        await until(lambda: all(process.poll() is not None for process in self._processes))


@contextlib.asynccontextmanager
async def proxy_of(kind: str, folder: Path) -> AsyncIterator[Proxy]:
    if shutil.which(kind) is None:
        pytest.skip(f"{kind} is not installed; apt-get install {kind}")
    with reserved_ports() as port:
        proxy = Proxy(kind, folder, port)
        try:
            yield proxy
        finally:
            await proxy.stop()


@contextlib.asynccontextmanager
async def two_gates(proxy: Proxy, second_at: str = "") -> AsyncIterator[tuple[EchoServer, EchoServer]]:
    async with serving(proxy.listen(1)) as one, serving(proxy.listen(2, second_at)) as two:
        await proxy.start(one, two)
        yield one, two


async def dial(
    address: str, uid: int, tls: ssl.SSLContext, handlers: Handlers | None = None, resume: bool = True
) -> Session:
    return await connect(
        address,
        uid=uid,
        token=token_of(uid).decode(),
        tls=tls,
        catalog=CATALOG,
        handlers=handlers or Handlers(CATALOG),
        resume=resume,
        reconnect=SOON,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_each_ticket_leads_back_to_its_gateway(kind: str, tmp_path: Path) -> None:
    async with proxy_of(kind, tmp_path) as proxy, two_gates(proxy) as gates:
        resumed: asyncio.Queue[int] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on_resumed(lambda session: resumed.put_nowait(session.uid))
        sessions = [await dial(proxy.address(), uid, proxy.tls, handlers) for uid in range(1, 9)]
        assert all(len(gate.sessions) for gate in gates), "the proxy sends all to one gateway"
        assert all(session.address == "127.0.0.1" for gate in gates for session in gate.sessions)
        before = [{session.uid: session for session in gate.sessions} for gate in gates]
        for gate in gates:
            for connection in gate.connections:
                connection.abort()
        for _ in sessions:
            await resumed.get()
        assert [{session.uid: session for session in gate.sessions} for gate in gates] == before
        for session in sessions:
            session.close()
            await session.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_lands_elsewhere_is_told_and_logs_in_anew(kind: str, tmp_path: Path) -> None:
    """As with an address in its ticket that leads to another gateway."""
    async with proxy_of(kind, tmp_path) as proxy, two_gates(proxy, second_at=proxy.address(1)) as (one, two):
        ended: asyncio.Queue[CloseCode | None] = asyncio.Queue()
        handlers = Handlers(CATALOG)
        handlers.on_closed(lambda session: ended.put_nowait(session.close_code))
        await dial(proxy.address(2), 7, proxy.tls, handlers)
        for connection in two.connections:
            connection.abort()
        assert await ended.get() is CloseCode.RESUME_REFUSED
        again = await dial(proxy.address(1), 7, proxy.tls)
        assert one.session(7).uid == 7
        again.close()
        await again.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reload_of_the_proxy_loses_nothing(kind: str, tmp_path: Path) -> None:
    async with proxy_of(kind, tmp_path) as proxy, two_gates(proxy) as (one, _):
        got: asyncio.Queue[int] = asyncio.Queue()
        resumed = asyncio.Event()
        handlers = Handlers(CATALOG)
        handlers.on(Echo)(lambda session, message: got.put_nowait(message.n))
        handlers.on_resumed(lambda session: resumed.set())
        session = await dial(proxy.address(1), 7, proxy.tls, handlers)
        there = one.session(7)
        sent = 0

        async def talk() -> None:
            nonlocal sent
            while not resumed.is_set():
                session.send(Echo(sent))
                sent += 1
                await asyncio.sleep(0.01)

        proxy.reload()
        await talk()
        session.send(Echo(-1))
        answers = []
        while (n := await got.get()) != -1:
            answers.append(n)
        assert answers == list(range(sent))
        assert one.session(7) is there
        session.close()
        await session.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_gateway_that_is_gone_is_said(kind: str, tmp_path: Path) -> None:
    async with proxy_of(kind, tmp_path) as proxy, two_gates(proxy) as (one, _):
        await one.stop(0)
        with pytest.raises(ConnectError, match="HTTP 50[23]"):
            await dial(proxy.address(1), 7, proxy.tls)
