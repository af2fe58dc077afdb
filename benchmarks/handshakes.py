"""Logins a second on one core, from connect to verified, and what each costs the server: plain, sealed, TLS, a link.

    python -m benchmarks.handshakes [--rounds 3] [--logins 2000]

The method is in benchmarks/README.md.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.echo import KEY
from benchmarks.harness import (
    HOST,
    LIBCRYPTO,
    LIBSSL,
    SERVER_COMMAND,
    BenchmarkError,
    allow_files,
    built,
    cores,
    cpu_seconds,
    describe_environment,
    guarded,
    pinned,
    serving,
    wait_until_idle,
)
from benchmarks.listeners import CERTIFICATE, CERTIFICATE_KEY, CLUSTER_KEY, SERVER_ID
from benchmarks.rawclient import FIRST_UID
from gatelink.wire.control import Handshake, Hello, decode_control
from gatelink.wire.handshake import Initiator, Responder

CLIENTS = 32  # that log in at the same time
ENOUGH = 60.0  # s for one measurement
FEATURES = 3  # resume and ping, as every client of ours

WAYS = {
    "plain": "base protocol, plain",
    "sealed": "Noise NK, resumable",
    "tls": "base protocol over TLS 1.3 (ECDSA P-256)",
    "link": "Noise NNpsk0, between servers",
}
"""The modes of logins.c, and what they are."""

KEYS = {"sealed": [KEY.public.hex()], "link": [CLUSTER_KEY.to_hex()]}


class Sample(NamedTuple):
    """One measurement, or the medians of several."""

    rate: float  # logins per second
    p50: float  # us from connect to verified, with CLIENTS at the same time
    p99: float  # us
    load_cpu: float  # share of a core
    cpu_us: float  # us of the server's processor time per login


def measure(server: tuple[int, int], way: str, logins: int, first: int, core: int) -> Sample:
    """`logins` at the server (pid, port) as users `first` and following; they stay until its time has been read."""
    pid, port = server
    arguments = [way, HOST, port, logins, CLIENTS, first, *KEYS.get(way, ())]
    before = cpu_seconds(pid)
    load = subprocess.Popen(
        pinned(core, built("logins", LIBCRYPTO, LIBSSL), *map(str, arguments)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert load.stdin is not None and load.stdout is not None
        line = load.stdout.readline()
        used = cpu_seconds(pid) - before
        load.stdin.close()
        load.wait(10)
    finally:
        load.kill()
        load.wait()
    wait_until_idle(pid)
    seen = re.search(r"logins/s=(\d+) p50=(\d+)us p99=(\d+)us loadgen_cpu=([\d.]+)", line)
    if not seen:
        raise BenchmarkError(f"logins failed, {way}: {line}")
    rate, p50, p99, load_cpu = map(float, seen.groups())
    return Sample(rate, p50, p99, load_cpu, used * 1e6 / logins)


def run(rounds: int, logins: int) -> dict[str, list[Sample]]:
    """Every way directly after the other, `rounds` times over, each at a server of its own."""
    server_core, load_core = cores()
    allow_files(logins + 100)
    seen: dict[str, list[Sample]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        make_certificate(Path(directory))
        server = f"{sys.executable} -m benchmarks.listeners"
        commands = {"tls": f"{server} tls {{port}} {directory}", "link": f"{server} link {{port}}"}
        echo = stack.enter_context(serving(SERVER_COMMAND, server_core))
        servers = {
            way: stack.enter_context(serving(commands[way], server_core)) if way in commands else echo for way in WAYS
        }
        for way in WAYS:
            measure(
                servers[way], way, CLIENTS, FIRST_UID, load_core
            )  # what the first login loads is not the others' cost
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            first = FIRST_UID + number * max(logins, CLIENTS)  # nobody is replaced by a newer login
            for way in WAYS:
                seen[way].append(measure(servers[way], way, logins, first, load_core))
    return seen


def alone(initiators: list[Initiator], responder: Responder) -> float:
    """us of processor time that answering a HANDSHAKE takes by itself, without a socket, a session or a log."""
    records = [decode_control(initiator.frame[4:]) for initiator in initiators]
    started = process_time()
    for record in records:
        assert isinstance(record, Handshake)
        responder.respond(record, FEATURES)
    return (process_time() - started) * 1e6 / len(records)


def handshakes_alone(count: int) -> dict[str, float]:
    hello = Hello(features=FEATURES)
    clients = [Initiator(KEY.public, hello) for _ in range(count)]
    links = [Initiator(CLUSTER_KEY, hello, 2, SERVER_ID) for _ in range(count)]
    return {
        "NK": alone(clients, Responder([KEY])),
        "NNpsk0": alone(links, Responder(cluster_keys=[CLUSTER_KEY], server_id=SERVER_ID)),
    }


def make_certificate(directory: Path) -> None:
    """A self-signed one for an hour, and its key, as `benchmarks.listeners` reads them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gatelink benchmark")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / CERTIFICATE).write_bytes(certificate.public_bytes(pem))
    (directory / CERTIFICATE_KEY).write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def table(seen: dict[str, list[Sample]]) -> str:
    """The results as a Markdown table."""
    rows = [
        "| login | logins/s | least-most | server CPU us | a core's logins/s | p50 us | p99 us | load CPU |",
        "| --- |" + " ---: |" * 7,
    ]
    for way, samples in seen.items():
        rate, p50, p99, load_cpu, cpu_us = (median(values) for values in zip(*samples, strict=True))
        rates = [sample.rate for sample in samples]
        rows.append(
            f"| {WAYS[way]} | {rate:,.0f} | {min(rates):,.0f}-{max(rates):,.0f} | {cpu_us:,.0f} "
            f"| {1e6 / max(cpu_us, 1):,.0f} | {p50:,.0f} | {p99:,.0f} | {load_cpu:.2f} |"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handshakes", description="Logins a second.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured (3)")
    parser.add_argument("--logins", type=int, default=2_000, help="how many a measurement takes (2000)")
    options = parser.parse_args()

    def benchmark() -> None:
        seen = run(options.rounds, options.logins)
        bare = ", ".join(f"{name} {us:.0f} us" for name, us in handshakes_alone(options.logins).items())
        server_core, load_core = cores()
        print(describe_environment())
        print(
            f"medians of {options.rounds} interleaved rounds of {options.logins:,} logins, {CLIENTS} at a time, all of "
            f"which stay; server on core {server_core}, load on core {load_core}\n\n{table(seen)}\n\n"
            f"answering a HANDSHAKE by itself: {bare}"
        )

    return guarded(benchmark, 60 + (options.rounds + 1) * len(WAYS) * ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
