"""The files of docs/operations: the unit for systemd, the dashboard and the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from docs.generate import ROOT
from tests.support.client import Client
from tests.support.node import NO_TLS
from tests.support.process import ServerProcess
from tests.support.redis import redis_server
from tidings.cli.serving import FORCED_EXIT_S
from tidings.contract.errors import ErrorCode
from tidings.settings import Settings

FOLDER = ROOT / "docs/operations"
UNIT = (FOLDER / "tidings.service").read_text("utf-8")
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
ALERTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
ADDED = {"job", "instance"}
"""Labels that Prometheus adds to every sample."""
EXPRESSIONS: list[str] = [
    *(
        target["expr"].replace("$__rate_interval", "5m")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ),
    *(alert["expr"] for alert in ALERTS),
]

Known = dict[str, dict[str, set[str]]]
"""The values of each label of each metric."""


def unknown(expression: str, known: Known) -> set[str]:
    """What an expression uses that the server does not have; every metric in it has to select the job."""
    wrong, labels = set(), set(ADDED)
    for name, matchers in re.findall(r"\b((?:[a-z]+_)+[a-z]+|up)\b(?! *\()(?:\{(.*?)\})?", expression):
        if name not in known:
            if matchers or name.startswith(("tidings_", "process_", "python_")):
                wrong.add(name)
            continue
        labels |= known[name].keys()
        found = re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers)
        if ("job", "=", "tidings") not in found:
            wrong.add(f"{name} of other jobs")
        for label, operator, value in found:
            if label not in ADDED and (operator == "=~" or value not in known[name].get(label, ())):
                wrong.add(f"{name}{{{label}{operator}{value}}}")
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    return wrong | {label for label in re.findall(r"\w+", grouped) if label not in labels}


def checked(program: str, *arguments: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} on this machine")
    result = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.long
async def test_the_dashboard_and_the_alerts_use_only_what_the_server_measures(
    postgresql_url: str, tmp_path: Path
) -> None:
    """Of workers with PostgreSQL and Redis, which have every metric."""
    async with redis_server() as redis:
        server = ServerProcess(
            tmp_path, arguments=("--workers", "2"), TIDINGS_DATABASE_URL=postgresql_url, TIDINGS_REDIS_URL=redis.url
        )
        try:
            await server.start()
            client = await Client(server.url, await server.register("omar")).connect()
            async with httpx.AsyncClient(verify=NO_TLS) as http:
                text = (await http.get(f"{server.url}/metrics")).text
            await client.close()
        finally:
            await server.terminate()
    known: Known = defaultdict(lambda: defaultdict(set)) | {"up": defaultdict(set)}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = known[sample.name]
            for label, value in sample.labels.items():
                labels[label].add(value)
    for code in ErrorCode:  # counted from its first occurrence
        known["tidings_actions_total"]["outcome"].add(code)
    for expression in EXPRESSIONS:
        assert unknown(expression, known) == set(), expression


def test_prometheus_reads_the_alerts_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(EXPRESSIONS)]
    panels = tmp_path / "panels.yaml"
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    checked("promtool", "check", "rules", str(FOLDER / "alerts.yaml"), str(panels))


def test_every_alert_says_what_to_do_and_is_listed() -> None:
    section = (ROOT / "docs/deployment.md").read_text("utf-8").partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert [alert["alert"] for alert in ALERTS] == re.findall(r"`(Tidings[A-Z]\w+)`", section)
    for alert in ALERTS:
        assert alert["annotations"].keys() == {"summary", "runbook"}, alert["alert"]


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    (tmp_path / "tidings.service").write_text(UNIT.replace("/opt/tidings/bin/tidings", sys.executable), "utf-8")
    checked("systemd-analyze", "verify", "--man=no", str(tmp_path / "tidings.service"))


def test_a_stop_by_systemd_waits_for_the_longest_stop_of_the_server() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)
    settings = Settings(_env_file=None)
    assert int(seconds) > settings.drain_wait + settings.drain_s + FORCED_EXIT_S
