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
from tools import dashboard

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
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "admin"}
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


def test_a_login_service_has_no_cluster_key_and_its_own_user_at_nats() -> None:
    whole, own = load(DEPLOY / "kubernetes" / "cluster.toml"), load(DEPLOY / "kubernetes" / "login.toml")
    assert own.gateway is None and not own.services and own.login is not None and whole.login is not None
    assert (own.login.listen, own.login.key, own.login.proxies) == (
        whole.login.listen,
        whole.login.key,
        whole.login.proxies,
    )
    assert (own.accounts.url, own.engine.url, own.tokens) == (whole.accounts.url, whole.engine.url, whole.tokens)
    assert (own.engine.user, whole.engine.user) == ("login", "gateway")
    named = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in workloads()}
    secrets = {
        name: [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each]
        for name, pod in named.items()
    }
    assert secrets.pop("gatelink-login") == ["gatelink-login"]
    assert all(names == ["gatelink"] for names in secrets.values())
    (made,) = re.findall(r"create secret generic gatelink-login (.*?)\n#     kubectl", MANIFEST.read_text(), re.DOTALL)
    assert "login.key" in made and "cluster.key" not in made
    login = unit(DEPLOY / "systemd" / "gatelink-login.service")["Service"]
    gateway = unit(DEPLOY / "systemd" / "gatelink-gateway@.service")["Service"]
    assert login["User"] != gateway["User"] and login["EnvironmentFile"] != gateway["EnvironmentFile"]


def test_the_example_for_kubernetes_is_closed_to_strangers() -> None:
    """Addresses behind the ingress, TLS to NATS, sealed connections or TLS, and a gateway's own address."""
    settings = load(DEPLOY / "kubernetes" / "cluster.toml")
    assert settings.login is not None and settings.login.proxies
    assert settings.engine.servers and all(url.startswith("tls://") for url in settings.engine.servers)
    assert settings.gateway is not None
    assert settings.gateway.sealed_only or all(each.endpoint.startswith("tls://") for each in settings.gateway.listen)
    (script,) = [
        each["spec"]["template"]["spec"]["containers"][0]["command"][2]
        for each in workloads()
        if each["metadata"]["name"] == "gatelink-gateway"
    ]
    assert '--outer "tcp://g${HOSTNAME##*-}.' in script
    services = [each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "Service"]
    outside = [each["spec"] for each in services if each["spec"].get("type") == "LoadBalancer"]
    replicas = next(each["spec"]["replicas"] for each in workloads() if each["metadata"]["name"] == "gatelink-gateway")
    pods = {each["selector"]["statefulset.kubernetes.io/pod-name"] for each in outside}
    assert pods == {f"gatelink-gateway-{index}" for index in range(replicas)}


# -- what is watched --

RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DOCS = DEPLOY.parent / "docs"
OF_PROCESSES = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def documented() -> dict[str, set[str]]:
    """The labels of each metric, by the tables of the docs, which other tests compare with `/metrics`."""
    found: dict[str, set[str]] = {}
    for page in ("operations.md", "cluster.md", "login.md"):
        rows = re.findall(r"^\| `(gatelink_\w+)` \| (\w+) \|([^|]*)\|", (DOCS / page).read_text(), re.MULTILINE)
        for name, type, labels in rows:
            found[name + "_bucket" * (type == "histogram")] = set(re.findall(r"`(\w+)`", labels))
    return found


def expressions() -> list[str]:
    panels = dashboard.dashboard()["panels"]
    return [rule["expr"] for rule in RULES] + [line["expr"] for each in panels for line in each.get("targets", ())]


@pytest.mark.parametrize("expression", expressions())
def test_what_is_watched_is_measured(expression: str) -> None:
    metrics = documented()
    names = set(re.findall(r"\b((?:gatelink|process)_\w+|up)(?=\{|\[|\)| |$)", expression))
    assert names and names <= set(metrics) | OF_PROCESSES, "a metric that no process has"
    labels = set(re.findall(r'[{,](\w+)=~?"', expression))
    labels |= {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert labels - {"instance", "job", "le"} <= set().union(*(metrics.get(name, set()) for name in names))


def test_each_alert_has_its_row_in_the_runbook() -> None:
    rows = re.findall(r"^\| (Gatelink\w+) \|", (DOCS / "operations.md").read_text(), re.MULTILINE)
    assert rows == [rule["alert"] for rule in RULES]


def test_alerts_show_only_labels_that_they_have() -> None:
    for rule in RULES:
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) - {"instance"}
        names = re.findall(r"\b(gatelink_\w+)", rule["expr"])
        assert shown <= set().union(*(documented()[name] for name in names)), rule["alert"]


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run python tools/dashboard.py"


def test_the_image_runs_as_the_user_of_the_manifests_and_hears_sigterm() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text()
    user = manifests("Deployment")["gatelink-login"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"--uid {user}" in lines and f"USER {user}" in lines
    assert re.search(r'^ENTRYPOINT \["/usr/bin/env"\]$', lines, re.MULTILINE), "a shell would keep SIGTERM to itself"
