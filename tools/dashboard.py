"""`python tools/dashboard.py`: write deploy/grafana/gatelink.json, a dashboard of all processes of a cluster.

Import the file in Grafana and choose the Prometheus that scrapes the admin ports. A test checks that the file is what
this makes, and that each metric in it is one that a process has.
"""

import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "gatelink.json"
SOURCE = {"type": "prometheus", "uid": "${source}"}
WHERE = '{instance=~"$instance"}'  # the processes that the viewer chose
COLUMNS, WIDTH, HEIGHT = 3, 8, 8  # Grafana's grid has 24 columns

Line = tuple[str, str]  # an expression, and its legend


# expressions of PromQL


def now(metric: str) -> str:
    return f"gatelink_{metric}{WHERE}"


def rate(metric: str) -> str:
    return f"rate(gatelink_{metric}{WHERE}[$__rate_interval])"


def total(labels: str, expression: str) -> str:
    return f"sum by ({labels}) ({expression})"


def quantile(share: float, labels: str, metric: str) -> str:
    return f"histogram_quantile({share}, {total(labels, rate(f'{metric}_bucket'))})"


EACH = "{{instance}}"

ROWS: dict[str, list[tuple[str, str, list[Line]]]] = {
    "Players": [
        ("Open sessions", "short", [(now("sessions"), EACH)]),
        ("Logins a second", "ops", [(rate("logins_total"), EACH)]),
        ("Sessions that ended, by code", "ops", [(total("code", rate("closes_total")), "{{code}}")]),
        ("Refused connections, by reason", "ops", [(total("reason", rate("refusals_total")), "{{reason}}")]),
        ("Round trips to clients", "s", [(quantile(q, "le", "rtt_seconds"), f"p{q * 100:g}") for q in (0.5, 0.99)]),
        ("Login service: answers", "ops", [(total("status", rate("login_responses_total")), "{{status}}")]),
    ],
    "Messages": [
        ("Messages a second", "ops", [(total("direction", rate("messages_total")), "{{direction}}")]),
        (
            "The ten busiest messages",
            "ops",
            [(f"topk(10, {total('direction, message', rate('messages_total'))})", "{{message}} {{direction}}")],
        ),
        ("Handlers, p99", "s", [(f"topk(10, {quantile(0.99, 'le, message', 'handler_seconds')})", "{{message}}")]),
        ("Errors of handlers", "ops", [(total("message", rate("handler_errors_total")), "{{message}}")]),
        (
            "Requests, by outcome",
            "ops",
            [(total("direction, outcome", rate("requests_total")), "{{direction}} {{outcome}}")],
        ),
        (
            "Pauses of reading",
            "ops",
            [
                (rate("reading_pauses_total"), f"{EACH} handlers lag"),
                (rate("rate_pauses_total"), f"{EACH} over its rates"),
            ],
        ),
    ],
    "Cluster": [
        ("Lost messages", "ops", [(rate("lost_frames_total"), "type {{type}}")]),
        ("Players that wait for a server", "short", [(total("type", now("waiting_players")), "type {{type}}")]),
        (
            "Forwarded and pushed frames",
            "ops",
            [(rate("forwarded_frames_total"), f"{EACH} forwarded"), (rate("pushed_frames_total"), f"{EACH} pushed")],
        ),
        ("Links", "short", [(total("state", now("links")), "{{state}}")]),
        (
            "The engine can be used",
            "bool_yes_no",
            [(now("engine_available"), EACH), (now("login_engine_available"), EACH)],
        ),
        (
            "Clock ahead of the engine's",
            "s",
            [(now("engine_clock_skew_seconds"), EACH), (now("login_engine_clock_skew_seconds"), EACH)],
        ),
    ],
    "Processes": [
        ("Longest block of the loop", "s", [(now("loop_lag_seconds"), EACH)]),
        ("Processor", "percentunit", [(f"rate(process_cpu_seconds_total{WHERE}[$__rate_interval])", EACH)]),
        ("Memory", "bytes", [(f"process_resident_memory_bytes{WHERE}", EACH)]),
        (
            "Held and queued bytes",
            "bytes",
            [
                (now("held_bytes"), f"{EACH} held"),
                (now("outbox_bytes"), f"{EACH} outboxes"),
                (now("outbox_bytes_max"), f"{EACH} fullest outbox"),
            ],
        ),
        (
            "Handlers that run",
            "short",
            [(now("handlers_running"), EACH), (now("handlers_long"), f"{EACH} for over 10 s")],
        ),
        (
            "Unverified connections",
            "short",
            [
                (now("unverified_connections"), EACH),
                (now("handshakes_waiting"), f"{EACH} wait for a handshake"),
                (now("banned_addresses"), f"{EACH} banned addresses"),
            ],
        ),
    ],
}


def panel(number: int, title: str, unit: str, lines: list[Line], x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": None if "Clock" in title else 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for n, (expression, legend) in enumerate(lines)
        ],
    }


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for name, row in ROWS.items():
        position = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": name, "collapsed": False, "gridPos": position})
        y += 1
        for n, (title, unit, lines) in enumerate(row):
            x = n % COLUMNS * WIDTH
            panels.append(panel(len(panels) + 1, title, unit, lines, x, y + n // COLUMNS * HEIGHT))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "gatelink",
        "title": "gatelink",
        "tags": ["gatelink"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "instance",
                    "label": "Process",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(process_resident_memory_bytes, instance)",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
    print(FILE, file=sys.stderr)
