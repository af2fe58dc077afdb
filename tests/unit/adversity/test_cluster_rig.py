"""What the rig reads of NATS, and the clock that it lets step."""

import subprocess
import sys

import msgspec
import pytest

from tests.adversity.cluster.rig import JetStream, majority
from tests.processes import ROOT


@pytest.mark.parametrize(
    ("votes", "leader"),
    [
        (["nats1", "nats1", "nats1"], "nats1"),
        (["nats1", "nats2", "nats2"], "nats2"),  # nats1 was cut off, and believes in itself
        (["nats1", "nats2", "nats3"], ""),
        (["nats1", "", ""], ""),
        (["nats1"], ""),
        ([], ""),
    ],
)
def test_a_leader_is_the_one_that_two_nodes_name(votes: list[str], leader: str) -> None:
    assert majority(votes) == leader


def test_a_node_that_knows_no_leader_and_has_no_streams_is_read_as_such() -> None:
    seen = msgspec.json.decode(b'{"server_id": "x", "meta_cluster": {"name": "game"}}', type=JetStream)
    assert (seen.meta_cluster.leader, seen.account_details) == ("", [])
    text = b'{"account_details": [{"stream_detail": [{"name": "KV_gatelink", "cluster": {"leader": "nats2"}}]}]}'
    assert msgspec.json.decode(text, type=JetStream).account_details[0].stream_detail[0].cluster.leader == "nats2"


def test_a_skewed_process_has_the_true_time_until_its_clock_steps() -> None:
    program = (
        "import os, signal, time; from tests.adversity.cluster.skewed import skew; true = time.time; skew(3_600.0)\n"
        "print(round(time.time() - true())); os.kill(os.getpid(), signal.SIGUSR1)\n"
        "while time.time() - true() < 1_800: pass\n"
        "print(round(time.time() - true()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "3600"], done.stderr
