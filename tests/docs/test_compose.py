"""compose.yaml: several nodes behind the load balancer of docs/cluster/haproxy.cfg."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from docs.generate import ROOT

TEXT = (ROOT / "compose.yaml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLUSTER = {name: service for name, service in SERVICES.items() if "cluster" in service.get("profiles", ())}
NODES = {name: service for name, service in CLUSTER.items() if "TIDINGS_NODE_URL" in service.get("environment", {})}
BALANCER = (ROOT / "docs/cluster/haproxy.cfg").read_text("utf-8")
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "TIDINGS_SECRET_KEY")


def test_the_cluster_starts_only_when_what_it_needs_is_healthy() -> None:
    assert CLUSTER.keys() == {"postgres", "migrate-cluster", "redis", "node-1", "node-2", "balancer"}
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text("utf-8")  # of the nodes
    for name, service in CLUSTER.items():
        assert name == "migrate-cluster" or "healthcheck" in service or service.get("build") == ".", name
        for other, condition in service.get("depends_on", {}).items():
            assert other in CLUSTER
            ended = "service_completed_successfully"
            assert condition["condition"] == (ended if other == "migrate-cluster" else "service_healthy")
    assert CLUSTER["balancer"]["depends_on"].keys() == NODES.keys()


def test_only_the_balancer_is_published_and_only_to_this_machine() -> None:
    assert {name: service["ports"] for name, service in CLUSTER.items() if "ports" in service} == {
        "balancer": ["127.0.0.1:8080:8080"]
    }


def test_the_image_runs_without_privileges_and_writes_only_to_its_volume() -> None:
    ours = {name: service for name, service in SERVICES.items() if "build" in service}
    assert ours.keys() == {"tidings", "migrate", "migrate-cluster", *NODES}
    for service in ours.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_nodes_reach_each_other_and_trust_the_balancer_alone() -> None:
    address = CLUSTER["balancer"]["networks"]["front"]["ipv4_address"]
    subnet = COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"]
    assert subnet == address.removesuffix(".100") + ".0/24"
    for name, node in NODES.items():
        assert node["environment"]["TIDINGS_NODE_URL"] == f"http://{name}:8000"
        assert node["environment"]["TIDINGS_NODE_NAME"] == name
        assert node["environment"]["FORWARDED_ALLOW_IPS"] == address
        assert "front" in node["networks"]
        assert node["volumes"] == [f"{name}:/data"]
    keys = {node["environment"]["TIDINGS_DATABASE_URL"] for node in NODES.values()}
    assert len(keys) == 1


def test_the_balancer_sends_requests_to_every_node_in_turn() -> None:
    assert re.findall(r"^    server (\S+) (\S+)$", BALANCER, re.M) == [(name, f"{name}:8000") for name in NODES]
    assert "balance roundrobin" in BALANCER
    assert not re.search(r"^\s*(cookie|stick|hash-type|option prefer-last-server)", BALANCER, re.M)
    assert "./docs/cluster/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro" in CLUSTER["balancer"]["volumes"]


def test_no_secret_has_a_default_and_other_profiles_need_none() -> None:
    used = re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", re.sub(r"^#.*", "", TEXT, flags=re.M))
    assert {default for name, default in used if name in SECRETS} == {":-"}
    assert not [name for name, default in used if "?" in default], "Compose checks it for every profile"
    for service in SERVICES.values():
        for name in SECRETS:
            assert service.get("environment", {}).get(name) is None


@pytest.mark.parametrize(
    ("service", "secret"), [*(("migrate-cluster", name) for name in SECRETS), ("redis", "REDIS_PASSWORD")]
)
def test_the_cluster_refuses_to_start_without_a_secret(service: str, secret: str) -> None:
    """The commands of the containers, in which `$$` is `$`."""
    command = [part.replace("$$", "$") for part in CLUSTER[service]["command"]]
    environment = {name: "given" for name in SECRETS if name != secret}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=30)
    assert result.returncode == 2, result
    assert f"{secret}: has no value: set it in .env" in result.stderr
    assert result.stdout == ""
