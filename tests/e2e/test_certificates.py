"""Certificates of tls:// listeners: renewed while the server runs, and refused by name when they do not load."""

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from examples.listeners.certificate import make
from gatelink import ConfigError, ConnectError, Listen, Server, StaticTokens, connect
from gatelink.net import certificates
from tests.e2e.support import until

DAY = timedelta(days=1)


class Authority:
    """Makes pairs in a folder, as a renewal does: first the certificate, then its key."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "fullchain.pem", folder / "privkey.pem"

    def issue(self, name: str, start: timedelta = -DAY, end: timedelta = DAY) -> None:
        certificate, key = self.pair(name, start, end)
        self.put(self.certificate, certificate)
        self.put(self.key, key)

    @staticmethod
    def pair(
        name: str, start: timedelta = -DAY, end: timedelta = DAY, passphrase: bytes | None = None
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + start)
            .not_valid_after(now + end)
            .sign(key, hashes.SHA256())
        )
        cipher = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        return certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, cipher)

    @staticmethod
    def put(path: Path, data: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, path)

    def listen(self) -> Listen:
        return Listen(endpoint="tls://127.0.0.1:0", certificate=str(self.certificate), key=str(self.key))

    def server(self) -> Server:
        return Server(self.listen(), tokens=StaticTokens())


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setattr("gatelink.server.CERTIFICATE_INTERVAL", 0.01)
    return Authority(tmp_path)


async def shown(server: Server) -> str:
    """The name in the certificate that a new connection sees."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", server.endpoints[0].port, ssl=context)
    data = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(data).subject.rfc4514_string()


async def shows(server: Server, name: str) -> None:
    """Returns once new connections see the certificate of that name."""
    async with asyncio.timeout(30):
        found = await shown(server)
        while found != name:
            found = await shown(server)


async def test_a_renewed_certificate_is_shown_to_new_connections(authority: Authority) -> None:
    authority.issue("first")
    async with authority.server() as server:
        assert await shown(server) == "CN=first"
        authority.issue("second")
        await shows(server, "CN=second")


async def test_reload_takes_it_at_once(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelink.server.CERTIFICATE_INTERVAL", 1_000.0)
    authority.issue("first")
    async with authority.server() as server:
        authority.issue("second")
        server.reload()
        assert await shown(server) == "CN=second"


@pytest.mark.parametrize("wrong", ["key of another", "no key", "no certificate", "half a file", "a passphrase"])
@pytest.mark.parametrize("how", ["the file changes", "reload"])
async def test_a_pair_that_does_not_load_keeps_the_old_one_and_says_so_once(
    authority: Authority, wrong: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "reload":
        monkeypatch.setattr("gatelink.server.CERTIFICATE_INTERVAL", 1_000.0)
    authority.issue("first")
    with capture_logs() as lines:
        async with authority.server() as server:
            certificate, key = authority.pair("second", passphrase=b"secret" if wrong == "a passphrase" else None)
            match wrong:
                case "key of another":
                    authority.put(authority.key, key)
                case "no key":
                    authority.key.unlink()
                case "no certificate":
                    authority.certificate.unlink()
                case "half a file":
                    authority.put(authority.certificate, certificate[:100])
                case "a passphrase":
                    authority.put(authority.certificate, certificate)
                    authority.put(authority.key, key)
            if how == "reload":
                server.reload()
            await until(lambda: any("the old one is kept" in line["event"] for line in lines))
            assert await shown(server) == "CN=first"
            await asyncio.sleep(0.1)  # that no second line comes has no event
            (error,) = [line["error"] for line in lines if "the old one is kept" in line["event"]]
            assert str(authority.key) in error or str(authority.certificate) in error
            authority.issue("third")
            if how == "reload":
                server.reload()
            await shows(server, "CN=third")


def test_between_the_two_files_of_a_renewal_nothing_is_logged(authority: Authority) -> None:
    authority.issue("first")
    found = certificates.Certificate("tls://h:1", str(authority.certificate), str(authority.key))
    new, key = authority.pair("second")
    with capture_logs() as lines:
        authority.put(authority.certificate, new)
        found.look()
        assert lines == []
        authority.put(authority.key, key)
        found.look()
    assert [line["event"] for line in lines] == ["certificate loaded again"]


@pytest.mark.parametrize("in_one_file", [False, True])
def test_a_key_with_a_passphrase_is_refused_with_its_name_and_without_asking(
    authority: Authority, in_one_file: bool
) -> None:
    certificate, key = authority.pair("first", passphrase=b"secret")
    authority.put(authority.certificate, certificate + key if in_one_file else certificate)
    authority.put(authority.key, key)
    path = None if in_one_file else str(authority.key)
    name = authority.certificate if in_one_file else authority.key
    with pytest.raises(ConfigError, match=f"key {name} has a passphrase"):
        certificates.Certificate("tls://h:1", str(authority.certificate), path)


def test_files_that_do_not_load_are_named(authority: Authority, tmp_path: Path) -> None:
    authority.issue("first")
    _, other = authority.pair("second")
    missing, junk, strange = tmp_path / "missing", tmp_path / "junk", tmp_path / "strange"
    junk.write_text("junk")
    strange.write_bytes(other)
    for certificate, key, said in (
        (missing, authority.key, f"certificate {missing}: No such file"),
        (authority.certificate, missing, f"key {missing}: No such file"),
        (authority.certificate, strange, f"key {strange} does not belong to certificate {authority.certificate}"),
        (junk, authority.key, f"certificate {junk} with key {authority.key} is not a PEM pair"),
        (tmp_path, authority.key, f"certificate {tmp_path}: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=said):
            certificates.Certificate("tls://h:1", str(certificate), str(key))


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (-2 * DAY, -DAY, "the certificate has expired"),
        (DAY, 2 * DAY, "the certificate is not valid yet"),
        (-DAY, DAY, None),
    ],
)
def test_a_certificate_out_of_its_dates_is_said_at_the_start(
    authority: Authority, start: timedelta, end: timedelta, said: str | None
) -> None:
    authority.issue("first", start, end)
    with capture_logs() as lines:
        assert authority.listen().load_certificate() is not None
    assert [line["event"] for line in lines] == ([said] if said else [])
    assert all(line["certificate"] == str(authority.certificate) for line in lines)


async def test_a_client_trusts_the_certificate_that_ssl_cert_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    certificate = str(tmp_path / "certificate.pem")
    listen = Listen(endpoint="tls://127.0.0.1:0", certificate=certificate, key=str(tmp_path / "key.pem"))
    async with Server(listen, tokens=StaticTokens()) as server:
        address = str(server.endpoints[0])
        with pytest.raises(ConnectError, match="give tls= a context that trusts the server's certificate"):
            await connect(address, uid=7, token=f"{7:032d}")
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        session = await connect(address, uid=7, token=f"{7:032d}")
        session.close()
        await session.wait_closed()
