"""deploy/: what is there can be read, and the commands in it exist with their options and time to drain."""

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped]

from gatelink.cli import app
from gatelink.settings import Settings, load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFEST = DEPLOY / "kubernetes" / "gatelink.yaml"


def check_command(words: list[str]) -> None:
    """The command line takes these words; `words[0]` is the program."""
    assert Path(words[0]).name == "gatelink"
    group: Any = typer.main.get_command(app)
    command = group.commands[words[1]]
    command.make_context(words[1], [re.sub(r"\$\(\(.*?\)\)|%i|\$\{INDEX\}", "1", word) for word in words[2:]])


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text())
    return parser


def needed(settings: Settings, command: str) -> float:
    drain = settings.gateway.drain_seconds if command == "gateway" and settings.gateway is not None else 0.0
    return drain + settings.limits.close_timeout + 5


def workloads() -> list[dict[str, Any]]:
    found = list(yaml.safe_load_all(MANIFEST.read_text()))
    return [each for each in found if each["kind"] in ("Deployment", "StatefulSet")]


def test_there_is_a_unit_for_each_kind_of_process() -> None:
    names = {path.name for path in UNITS}
    assert names == {"gatelink-login.service", "gatelink-gateway@.service", "gatelink-service@.service"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_units_command_exists_and_it_has_time_to_drain(path: Path) -> None:
    service = unit(path)["Service"]
    words = shlex.split(service["ExecStart"])
    check_command(words)
    assert float(service["TimeoutStopSec"]) > needed(load(DEPLOY / "kubernetes" / "cluster.toml"), words[1])
    assert service["Restart"] == "always" and service["RestartPreventExitStatus"] == (
        "78" if words[1] == "login" else "78 3"
    )
    assert int(service["LimitNOFILE"]) > Settings().limits.max_connections


@pytest.mark.parametrize("workload", workloads(), ids=lambda each: each["metadata"]["name"])
def test_a_workloads_command_exists_and_it_has_time_to_drain(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    script = re.sub(r"\$\(\(.*?\)\)", "1", container["command"][2])
    words = shlex.split(script.removeprefix("exec "))
    check_command(words)
    settings = load(DEPLOY / "kubernetes" / "cluster.toml")
    assert pod["terminationGracePeriodSeconds"] > needed(settings, words[1])
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    admin = {"gateway": "0.0.0.0:9100", "service": "0.0.0.0:9200", "login": "0.0.0.0:9300"}[words[1]]
    assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
    assert f"0.0.0.0:{ports['admin']}" == admin
    assert admin in (DEPLOY / "kubernetes" / "cluster.toml").read_text() + script


def test_a_command_that_is_not_there_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option: --no-such-option"):
        check_command(["gatelink", "gateway", "--config", "cluster.toml", "--no-such-option"])


# -- what the example must not leave open --


def manifests(kind: str) -> dict[str, Any]:
    """By name."""
    found = yaml.safe_load_all(MANIFEST.read_text())
    return {each["metadata"]["name"]: each for each in found if each["kind"] == kind}


def test_the_example_believes_its_proxy_and_encrypts_every_way() -> None:
    settings = load(DEPLOY / "kubernetes" / "cluster.toml")
    assert settings.login is not None and settings.login.proxies
    assert manifests("Ingress")["gatelink-login"]["spec"]["tls"]
    assert all(url.startswith("tls://") for url in settings.engine.url.split(","))
    assert settings.gateway is not None and settings.gateway.sealed_only and settings.gateway.keys
    for workload in workloads():
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert "SSL_CERT_FILE" in {each["name"] for each in container["env"]}


def test_each_gateway_has_an_address_of_its_own() -> None:
    gateways = manifests("StatefulSet")["gatelink-gateway"]
    assert "--outer" in gateways["spec"]["template"]["spec"]["containers"][0]["command"][2]
    services = manifests("Service")
    for index in range(gateways["spec"]["replicas"]):
        name = f"gatelink-gateway-{index}"
        assert services[name]["spec"]["selector"] == {"statefulset.kubernetes.io/pod-name": name}
    headless = services[gateways["spec"]["serviceName"]]["spec"]
    assert headless["clusterIP"] == "None" and "players" not in {port["name"] for port in headless["ports"]}
