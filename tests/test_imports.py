"""The layers of the server: which package may import which, checked in the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.imports import cycles, modules, uses, within

ROOT = Path(__file__).parents[1]
FOLDERS = {"tidings": "server", "tidings_db": "db", "tidings_chat": "client_demo", "tidings_client": "clients/python"}
"""The folder that holds each import package."""

ALLOWED: dict[str, set[str]] = {
    "tidings": set(),
    "tidings.contract": set(),
    "tidings.supervision": {"tidings_db.engine"},
    "tidings.settings": {"tidings.auth.limits", "tidings.monitoring.logs", "tidings.transport.addresses"},
    "tidings.transport.addresses": set(),
    "tidings.transport.outgoing": {"tidings.contract", "tidings.transport.addresses"},
    "tidings.transport.timers": set(),
    "tidings.transport": {"tidings.contract"},
    "tidings.auth.principal": {"tidings.contract"},
    "tidings.auth.limits": {"tidings.contract"},
    "tidings.auth.names": {"tidings.contract", "tidings_db.names"},
    "tidings.log": {
        "tidings.auth.limits",
        "tidings.auth.names",
        "tidings.auth.principal",
        "tidings.contract",
        "tidings.supervision",
        "tidings_db",
    },
    "tidings.fanout": {
        "tidings.auth.principal",
        "tidings.contract",
        "tidings.log.cursors",
        "tidings.log.notices",
        "tidings.log.views",
        "tidings.supervision",
        "tidings.transport.application_manager",
        "tidings.transport.elsewhere",
        "tidings.transport.timers",
        "tidings_db.engine",
        "tidings_db.queries",
        "tidings_db.read_batcher",
    },
    "tidings.auth": {
        "tidings.contract",
        "tidings.fanout.publisher",
        "tidings.log.notices",
        "tidings.supervision",
        "tidings.transport.addresses",
        "tidings_db",
    },
    "tidings.files": {
        *("tidings.auth.principal", "tidings.contract", "tidings.log", "tidings.supervision", "tidings_db"),
    },
    "tidings.previews": {
        *("tidings.__version__", "tidings.auth.limits", "tidings.auth.names", "tidings.contract"),
        *("tidings.supervision", "tidings.transport.outgoing", "tidings_db"),
    },
    "tidings.webhooks": {
        "tidings.__version__",
        "tidings.contract",
        "tidings.log.views",
        "tidings.supervision",
        "tidings.transport.outgoing",
        "tidings_db",
    },
    "tidings.push": {
        *("tidings.__version__", "tidings.contract", "tidings.supervision", "tidings.transport.addresses"),
        *("tidings.transport.outgoing", "tidings_db"),
    },
    "tidings.monitoring": set(),
    "tidings.monitoring.logs": set(),
    "tidings.monitoring.metrics": {"tidings.__version__", "tidings.contract"},
    "tidings.monitoring.memory": {"tidings.supervision"},
    "tidings.monitoring.traces": {
        *("tidings.__version__", "tidings.contract", "tidings.log.views", "tidings_db.queries.rows"),
    },
    "tidings.monitoring.vitals": {"tidings.monitoring.metrics", "tidings.supervision"},
    "tidings.monitoring.gauges": {
        "tidings.auth",
        "tidings.fanout",
        "tidings.log",
        "tidings.monitoring.logs",
        "tidings.monitoring.metrics",
        "tidings.monitoring.traces",
        "tidings.transport",
        "tidings.files",
        "tidings.push.sending",
        "tidings.webhooks.delivery",
        "tidings_db.engine",
        "tidings_db.queries.rows",
    },
    "tidings.actions.access": {"tidings.auth", "tidings.contract", "tidings_db"},
    "tidings.actions.echo_channel": {
        "tidings.auth.principal",
        "tidings.contract",
        "tidings.fanout.connection",
        "tidings.log",
        "tidings.supervision",
        "tidings_db.queries.echo",
    },
    "tidings.actions.stream_authors": {
        "tidings.auth.principal",
        "tidings.contract",
        "tidings.fanout.streams",
        "tidings.log",
        "tidings_db.queries",
    },
    "tidings.actions.context": {
        "tidings.actions.access",
        "tidings.actions.echo_channel",
        "tidings.actions.stream_authors",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout",
        "tidings.log",
        "tidings.monitoring.vitals",
        "tidings.files",
        "tidings.push.sending",
        "tidings.previews.service",
        "tidings.webhooks.delivery",
        "tidings_db.engine",
        "tidings_db.queries",
    },
    "tidings.actions.dispatch": {
        "tidings.actions.context",
        "tidings.auth.limits",
        "tidings.auth.principal",
        "tidings.contract",
        "tidings.fanout.connection",
        "tidings.monitoring.logs",
        "tidings.monitoring.metrics",
        "tidings.monitoring.traces",
    },
    "tidings.actions": {
        "tidings.__version__",
        "tidings.actions.access",
        "tidings.actions.context",
        "tidings.actions.dispatch",
        "tidings.actions.stream_authors",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout",
        "tidings.log",
        "tidings.files",
        "tidings.push",
        "tidings.webhooks",
        "tidings_db.queries",
    },
    "tidings.cluster.control_channel": set(),
    "tidings.cluster.worker": {
        "tidings.cluster.control_channel",
        "tidings.monitoring.metrics",
        "tidings.supervision",
    },
    "tidings.cluster.workers": {
        "tidings.cli.banner",
        "tidings.cluster.control_channel",
        "tidings.monitoring.logs",
        "tidings.settings",
        "tidings.supervision",
        "tidings.transport.listening",
    },
    "tidings.cluster": {
        "tidings.__version__",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout",
        "tidings.log",
        "tidings.monitoring.metrics",
        "tidings.settings",
        "tidings.supervision",
        "tidings.transport",
        "tidings_db",
    },
    "tidings.gateways": {
        "tidings.__version__",
        "tidings.actions.context",
        "tidings.actions.dispatch",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout.catchup",
        "tidings.fanout.connection",
        "tidings.fanout.hub.CONNECTIONS_PER_USER",
        "tidings.fanout.publisher",
        "tidings.files",
        *(f"tidings.log.{part}" for part in ("devices", "health", "notices", "places")),
        *("tidings.monitoring.logs", "tidings.monitoring.metrics", "tidings.supervision", "tidings.transport"),
        *("tidings_db.engine", "tidings_db.queries.places", "tidings_db.queries.users"),
    },
    "tidings.api": {"tidings.actions", "tidings.auth", "tidings.contract", "tidings_db.queries"},
    "tidings.cli": set(),
    "tidings.cli.file_lock": {"tidings.settings"},
    "tidings.cli.banner": {"tidings.settings"},
    "tidings.node": {
        "tidings.actions",
        "tidings.auth",
        "tidings.cli.file_lock",
        "tidings.cluster",
        "tidings.contract",
        "tidings.fanout",
        "tidings.gateways",
        "tidings.log",
        "tidings.monitoring",
        "tidings.files",
        "tidings.push",
        "tidings.previews",
        "tidings.settings",
        "tidings.supervision",
        "tidings.transport",
        "tidings.webhooks",
        "tidings_db",
    },
    "tidings.app": {
        "tidings.__version__",
        "tidings.api",
        "tidings.gateways",
        "tidings.node",
        "tidings.settings",
        "tidings.transport",
        "tidings_db.failures",
    },
    "tidings.cli.serving": {
        "tidings.app",
        "tidings.cli.banner",
        "tidings.cli.file_lock",
        "tidings.cluster.worker",
        "tidings.settings",
        "tidings.supervision",
        "tidings.transport",
    },
    "tidings.cli.database": {"tidings.auth", "tidings.fanout.publisher", "tidings.settings", "tidings_db"},
    "tidings.cli.integrations": {
        "tidings.auth",
        "tidings.cli.database",
        "tidings.contract",
        "tidings.settings",
        "tidings.webhooks",
        "tidings_db",
    },
    "tidings.cli.backup_files": {"tidings.files", "tidings.settings", "tidings_db"},
    "tidings.cli.backup": {
        "tidings.__version__",
        "tidings.auth.tokens",
        "tidings.cli.backup_files",
        "tidings.cli.database",
        "tidings.cli.file_lock",
        "tidings.contract",
        "tidings.files.store",
        "tidings.log.epochs",
        "tidings.settings",
        "tidings_db",
    },
    "tidings.cli.commands": {
        "tidings.__version__",
        "tidings.app",
        "tidings.auth",
        "tidings.cli.backup",
        "tidings.cli.banner",
        "tidings.cli.database",
        "tidings.cli.integrations",
        "tidings.cli.serving",
        "tidings.cluster.worker",
        "tidings.cluster.workers",
        "tidings.contract",
        "tidings.log.epochs",
        "tidings.monitoring.logs",
        "tidings.settings",
        "tidings_db",
    },
    "tidings.__main__": {"tidings.cli.commands"},
    "tidings.testing": {
        "tidings.api",
        "tidings.app",
        "tidings.auth",
        "tidings.cli.serving",
        "tidings.contract",
        "tidings.settings",
        "tidings.transport.listening",
        "tidings.webhooks.managing",
        "tidings_client",
        "tidings_db",
    },
    "tidings_db": set(),
    "tidings_chat": {"tidings.contract", "tidings_client"},
    "tidings_client": {"tidings.contract"},
}
"""Each layer, and the layers (or parts of them) that it may import beside itself. The longest name applies."""

ONLY_IN: dict[str, set[str]] = {
    # Code that uses undocumented parts of these libraries is in few modules.
    "redis": {"tidings.cluster.redis_link"},
    "hiredis": {"tidings.cluster.redis_link"},
    "socketio": {
        "tidings.transport.application_manager",
        "tidings.transport.python_socketio",
        "tidings.transport.socketio_codecs",
        "tidings_client.connection",
    },
    "engineio": {"tidings.transport.python_socketio"},
    "uvicorn": {"tidings.testing.kit", "tidings.transport.uvicorn_server", "tidings.transport.uvicorn_websocket"},
    "fastapi": {"tidings.app", "tidings.gateways"},
    "starlette": {"tidings.app", "tidings.gateways", "tidings.transport"},
    "pydantic_settings": {"tidings.settings"},
    "opentelemetry": {"tidings.monitoring.traces"},
    "webpush": {"tidings.push.encryption"},
    "os.environ": {"tidings.settings", "tidings.testing", "tidings_chat"},
    "os.environb": {"tidings.settings", "tidings_chat"},
    "os.getenv": {"tidings.settings", "tidings_chat"},
    "os.getenvb": {"tidings.settings", "tidings_chat"},
    # Raw look-ups of rooms, which check no access.
    "tidings_db.queries.rooms.find": {"tidings.actions.access", "tidings.fanout", "tidings.log"},
    "tidings_db.queries.rooms.find_direct": {"tidings.actions.access", "tidings.fanout", "tidings.log"},
    "tidings_db.queries.rooms.by_key": {"tidings.actions.access", "tidings.fanout", "tidings.log"},
    "tidings_db.queries.rooms.lock": {
        "tidings_db.queries.journal",
        "tidings.actions.access",
        "tidings.fanout",
        "tidings.log",
    },
}
"""Names that only these modules may import or use through an import."""


def layer(name: str) -> str | None:
    return max((known for known in ALLOWED if within(name, known)), key=len, default=None)


def violations(root: Path) -> list[str]:
    """A description of every broken rule under `root`."""
    found = modules(root, FOLDERS)
    wrong: list[str] = []
    edges: dict[str, set[str]] = {name: set() for name in found}
    for name, path in found.items():
        own = layer(name)
        if own is None or (own == "tidings" and name != "tidings"):
            wrong.append(f"{name}: no rule for it; add it to ALLOWED")
            continue
        for use in uses(name, path):
            for thing, where in ONLY_IN.items():
                if within(use.target, thing) and not any(within(name, place) for place in where):
                    wrong.append(f"{use}: only in {', '.join(sorted(where))}")
            if not use.imported or not any(within(use.target, ours) for ours in FOLDERS):
                continue
            module = use.target if use.target in found else use.target.rpartition(".")[0]
            if module not in found:
                module = use.target
            if use.early and module != name:
                edges[name].add(module)
            if own == "tidings" and not use.early:
                continue  # the package's own names, each imported when it is first used
            mine = own != "tidings" and within(module, own)
            if not mine and not any(within(use.target, allowed) for allowed in ALLOWED[own]):
                wrong.append(f"{use}: not for {own}")
    wrong += [f"import cycle: {' -> '.join(cycle)}" for cycle in cycles(edges)]
    between: dict[str, set[str]] = {known: set() for known in ALLOWED}
    for name, targets in edges.items():
        between[layer(name) or ""] |= {
            above for target in targets if (above := layer(target)) != layer(name) and above
        }
    wrong += [f"cycle of layers: {' -> '.join(cycle)}" for cycle in cycles(between)]
    return wrong


def test_every_module_imports_only_what_its_layer_may() -> None:
    found = modules(ROOT, FOLDERS)
    assert {
        "tidings.app",
        "tidings.contract",
        "tidings.fanout.hub",
        "tidings.log.journal",
        "tidings_client.client",
        "tidings_db.queries.rooms",
    } <= found.keys()
    assert violations(ROOT) == []


def test_the_layers_themselves_have_an_order() -> None:
    edges = {name: {above for part in parts if (above := layer(part))} - {name} for name, parts in ALLOWED.items()}
    assert cycles(edges) == []


GOOD = {
    "tidings.contract.errors": "import enum",
    "tidings.contract.models": "from tidings.contract.errors import Error",
    "tidings.settings.server": "import os\nfrom pydantic_settings import BaseSettings\nhome = os.environ['HOME']",
    "tidings.actions.access": "from tidings_db.queries import rooms\ndef load(conn): return rooms.find(conn)",
    "tidings.fanout.hub": "from tidings_db.queries import rooms\ndef lock(conn): return rooms.lock(conn)",
    "tidings.log.journal": "",
    "tidings.actions.dispatch": "from tidings.contract.errors import Error",
    "tidings.actions.rooms": (
        "from tidings_db.queries import rooms\nfrom tidings.actions.dispatch import action\nx = rooms.visible"
    ),
    "tidings.gateways.socketio": "from tidings.transport import engine_server",
    "tidings.gateways.rest": "import fastapi\nfrom tidings import __version__",
    "tidings.transport.engine_server": "from tidings.transport import python_socketio",
    "tidings.transport.python_socketio": "import engineio, socketio",
    "tidings.app": "from fastapi import FastAPI\nfrom tidings.node import Node",
    "tidings.node": "import tidings.actions\nclass Node: ...",
    "tidings_db.engine": "",
    "tidings_db.queries.rooms": "import tidings_db.engine",
    "tidings_chat.state": "import os\nfrom tidings_client import Client\nx = os.environ",
    "tidings_client.connection": "import aiohttp, socketio\nfrom tidings.contract.models import Message",
}
"""Modules that keep the rules, and their sources."""


def plant(root: Path, module: str, source: str) -> None:
    path = root / FOLDERS[module.partition(".")[0]] / (module.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    for package in path.relative_to(root).parents[:-2]:
        (root / package / "__init__.py").touch()
    path.write_text(source)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for module, source in GOOD.items():
        plant(tmp_path, module, source)
    return tmp_path


def test_a_tree_that_keeps_the_rules_has_no_violations(tree: Path) -> None:
    assert violations(tree) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("tidings.contract.errors", "from tidings.actions.dispatch import action", "not for tidings.contract"),
        ("tidings.contract.errors", "from tidings.actions import dispatch", "not for tidings.contract"),
        ("tidings.contract.errors", "from ..actions import dispatch", "not for tidings.contract"),
        ("tidings.contract.errors", "from ..actions.dispatch import action", "not for tidings.contract"),
        ("tidings.contract.errors", "import tidings_db", "not for tidings.contract"),
        ("tidings.contract.errors", "def late():\n    import tidings.actions.dispatch", "not for tidings.contract"),
        ("tidings_db.engine", "from tidings.contract.errors import Error", "not for tidings_db"),
        ("tidings_db.queries.rooms", "import tidings", "not for tidings_db"),
        ("tidings_chat.chat", "from tidings.actions.dispatch import Registry", "not for tidings_chat"),
        ("tidings_client.client", "from tidings.actions.dispatch import Registry", "not for tidings_client"),
        ("tidings_client.client", "from tidings_db import engine", "not for tidings_client"),
        ("tidings_client.client", "from tidings_chat import state", "not for tidings_client"),
        ("tidings_client.rooms", "import socketio", "only in"),
        ("tidings_chat.chat", "from tidings_db import engine", "not for tidings_chat"),
        ("tidings.fanout.hub", "from tidings.actions import rooms", "not for tidings.fanout"),
        ("tidings.fanout.hub", "from tidings.actions.context import Context", "not for tidings.fanout"),
        ("tidings.log.journal", "from tidings.fanout.hub import Hub", "not for tidings.log"),
        ("tidings.log.journal", "from tidings.cluster.broker import Broker", "not for tidings.log"),
        ("tidings.fanout.hub", "from tidings.log.journal import Journal", "not for tidings.fanout"),
        ("tidings.gateways.rest", "from tidings.actions import rooms", "not for tidings.gateways"),
        ("tidings.gateways.rest", "from tidings.fanout.hub import Hub", "not for tidings.gateways"),
        ("tidings.gateways.rest", "from tidings_db.queries import rooms", "not for tidings.gateways"),
        (
            "tidings.transport.engine_server",
            "from tidings.actions.dispatch import Registry",
            "not for tidings.transport",
        ),
        ("tidings.actions.rooms", "from tidings.gateways import rest", "not for tidings.actions"),
        ("tidings.actions.rooms", "from tidings_db.engine import Database", "not for tidings.actions"),
        ("tidings.actions.rooms", "import socketio", "only in"),
        ("tidings.fanout.hub", "def late():\n    from engineio import packet", "only in"),
        ("tidings.gateways.rest", "import socketio.packet", "only in"),
        ("tidings.actions.dispatch", "from fastapi import Request", "only in"),
        ("tidings.actions.dispatch", "import os\nx = os.environ['A']", "only in"),
        ("tidings.actions.dispatch", "import os as system\nx = system.getenv('A')", "only in"),
        ("tidings_db.engine", "from os import environ", "only in"),
        ("tidings.app", "from pydantic_settings import BaseSettings", "only in"),
        (
            "tidings.actions.rooms",
            "from tidings_db.queries import rooms as r\ndef f(c): return r.by_key(c, 1)",
            "only in",
        ),
        ("tidings.actions.rooms", "from tidings_db.queries.rooms import find", "only in"),
        (
            "tidings.actions.rooms",
            "import tidings_db.queries.rooms\nx = tidings_db.queries.rooms.find_direct",
            "only in",
        ),
        ("tidings.new", "", "no rule"),
        ("tidings.contract.errors", "from tidings.contract import models", "import cycle"),
        ("tidings_db.engine", "from tidings_db.queries.rooms import find", "import cycle"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, module: str, source: str, message: str) -> None:
    plant(tree, module, source)
    reported = violations(tree)
    assert any(message in line for line in reported), reported


def test_an_import_for_the_type_checker_alone_is_no_cycle_but_keeps_to_its_layer(tree: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
    plant(tree, "tidings.contract.errors", guarded + "from tidings.contract import models")
    assert violations(tree) == []
    plant(tree, "tidings.contract.errors", guarded + "from tidings.app import create_app")
    assert any("not for tidings.contract" in line for line in violations(tree))
