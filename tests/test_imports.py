"""The layers of the server: which package may import which, checked in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("server", "db", "client_demo")

ALLOWED: dict[str, set[str]] = {
    "server": set(),
    "server.contract": set(),
    "server.addresses": set(),
    "server.limits": {"server.contract"},
    "server.logging_setup": set(),
    "server.principal": set(),
    "server.supervision": {"db.engine"},
    "server.timers": set(),
    "server.memory": {"server.supervision"},
    "server.metrics": {"server.__version__", "server.contract"},
    "server.other_settings": set(),
    "server.settings": {"server.addresses", "server.limits", "server.logging_setup", "server.other_settings"},
    "server.file_lock": {"server.settings"},
    "server.names": {"db.names", "server.contract"},
    "server.transport": {"server.addresses", "server.contract", "server.timers"},
    "server.dispatch": {
        "server.context",
        "server.contract",
        "server.fanout.connection",
        "server.limits",
        "server.logging_setup",
        "server.metrics",
        "server.principal",
    },
    "server.log": {"db", "server.contract", "server.names", "server.principal", "server.supervision"},
    "server.fanout": {
        "db.engine",
        "db.queries",
        "db.read_batcher",
        "server.contract",
        "server.log.cursors",
        "server.log.notices",
        "server.log.views",
        "server.principal",
        "server.supervision",
        "server.timers",
    },
    "server.auth": {
        "db",
        "server.addresses",
        "server.contract",
        "server.limits",
        "server.names",
        "server.fanout.broker",
        "server.log.notices",
        "server.log.quotas",
        "server.principal",
    },
    "server.access": {"db", "server.contract", "server.names", "server.principal", "server.auth"},
    "server.echo": {
        "db.queries.echo",
        "server.contract",
        "server.fanout.connection",
        "server.log",
        "server.principal",
        "server.supervision",
    },
    "server.context": {
        "db.engine",
        "db.queries",
        "server.access",
        "server.auth",
        "server.contract",
        "server.fanout",
        "server.log",
        "server.principal",
        "server.echo",
        "server.limits",
    },
    "server.actions": {
        "db.queries",
        "server.access",
        "server.context",
        "server.contract",
        "server.fanout",
        "server.log",
        "server.principal",
        "server.dispatch",
        "server.limits",
        "server.names",
    },
    "server.gateways": {
        "db.engine",
        "db.queries.places",
        "db.queries.users",
        "server.__version__",
        "server.addresses",
        "server.auth",
        "server.context",
        "server.contract",
        "server.fanout.broker",
        "server.fanout.catchup",
        "server.fanout.connection",
        "server.fanout.hub.CONNECTIONS_PER_USER",
        "server.log.devices",
        "server.log.health",
        "server.log.notices",
        "server.log.places",
        "server.dispatch",
        "server.limits",
        "server.logging_setup",
        "server.metrics",
        "server.names",
        "server.principal",
        "server.supervision",
        "server.timers",
        "server.transport",
    },
    "server.options": {"server.auth", "server.fanout", "server.log", "server.logging_setup", "server.timers"},
    "server.api": {"db.engine", "server.access", "server.contract"},
    "server.app": {
        "db.failures",
        "server.__version__",
        "server.api",
        "server.gateways",
        "server.node",
        "server.options",
        "server.settings",
        "server.transport",
    },
    "server.monitoring": {
        "server.auth",
        "server.fanout",
        "server.log",
        "server.logging_setup",
        "server.metrics",
        "server.transport",
    },
    "server.brokers": {
        "db.engine",
        "server.fanout",
        "server.log",
        "server.metrics",
        "server.monitoring",
        "server.settings",
    },
    "server.node": {
        "server.__version__",
        "server.brokers",
        "db",
        "server.access",
        "server.actions",
        "server.auth",
        "server.context",
        "server.contract",
        "server.fanout",
        "server.log",
        "server.principal",
        "server.dispatch",
        "server.echo",
        "server.file_lock",
        "server.gateways",
        "server.limits",
        "server.logging_setup",
        "server.memory",
        "server.metrics",
        "server.monitoring",
        "server.options",
        "server.settings",
        "server.supervision",
        "server.transport",
    },
    "server.banner": {"server.settings"},
    "server.control_channel": set(),
    "server.worker": {"server.control_channel", "server.metrics", "server.supervision"},
    "server.workers": {
        "server.banner",
        "server.control_channel",
        "server.logging_setup",
        "server.settings",
        "server.supervision",
        "server.transport.listening",
    },
    "server.serving": {
        "server.app",
        "server.banner",
        "server.file_lock",
        "server.gateways",
        "server.settings",
        "server.supervision",
        "server.transport",
        "server.worker",
    },
    "server.cli": {
        "db",
        "server.__version__",
        "server.app",
        "server.auth",
        "server.banner",
        "server.contract",
        "server.fanout.broker",
        "server.log.epochs",
        "server.logging_setup",
        "server.names",
        "server.serving",
        "server.settings",
        "server.worker",
        "server.workers",
    },
    "server.__main__": {"server.cli"},
    "db": set(),
    "client_demo": {"server.contract"},
}
"""Each layer, and the layers (or parts of them) that it may import beside itself. The longest name applies."""

ONLY_IN: dict[str, set[str]] = {
    # Code that uses undocumented parts of these libraries is in few modules.
    "redis": {"server.fanout.redis_link"},
    "hiredis": {"server.fanout.redis_link"},
    "socketio": {
        "server.transport.application_manager",
        "server.transport.python_socketio",
        "server.transport.socketio_packets",
        "client_demo",
    },
    "engineio": {"server.transport.python_socketio", "client_demo"},
    "uvicorn": {"server.transport.uvicorn_server", "server.transport.uvicorn_websocket"},
    "fastapi": {"server.app", "server.gateways"},
    "starlette": {"server.app", "server.gateways", "server.transport"},
    "pydantic_settings": {"server.settings"},
    "os.environ": {"server.settings", "client_demo"},
    "os.environb": {"server.settings", "client_demo"},
    "os.getenv": {"server.settings", "client_demo"},
    "os.getenvb": {"server.settings", "client_demo"},
    # Raw look-ups of rooms, which check no access.
    "db.queries.rooms.find": {"server.access", "server.fanout", "server.log"},
    "db.queries.rooms.find_direct": {"server.access", "server.fanout", "server.log"},
    "db.queries.rooms.by_key": {"server.access", "server.fanout", "server.log"},
    "db.queries.rooms.lock": {"db.queries.journal", "server.access", "server.fanout", "server.log"},
}
"""Names that only these modules may import or use through an import."""


@dataclass(frozen=True, slots=True)
class Use:
    """`importer` uses `target` (a module, or a name in one) at a line; `early`: while it is itself imported."""

    importer: str
    target: str
    line: int
    early: bool
    imported: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} {self.target}"


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def modules(root: Path) -> dict[str, Path]:
    """Every module of this project, by its dotted name."""
    paths: dict[str, Path] = {}
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def uses(name: str, path: Path) -> Iterator[Use]:
    """The imports of a module, and the dotted names that it uses through them."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    known: dict[str, str] = {}
    for node, early in _walk(tree, early=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield Use(name, alias.name, node.lineno, early, True)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                known[alias.asname or alias.name] = target
                yield Use(name, target, node.lineno, early, True)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (spelled := _spelled(node, known)):
            yield Use(name, spelled, node.lineno, False, False)


def _walk(node: ast.AST, early: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inner = early and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield statement, False
                yield from _walk(statement, False)
            for statement in child.orelse:
                yield statement, inner
                yield from _walk(statement, inner)
            continue
        yield child, inner
        yield from _walk(child, inner)


def _spelled(node: ast.expr, known: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute) and (base := _spelled(node.value, known)):
        return f"{base}.{node.attr}"
    return None


def layer(name: str) -> str | None:
    return max((known for known in ALLOWED if within(name, known)), key=len, default=None)


def violations(root: Path) -> list[str]:
    """A description of every broken rule under `root`."""
    found = modules(root)
    wrong: list[str] = []
    edges: dict[str, set[str]] = {name: set() for name in found}
    for name, path in found.items():
        own = layer(name)
        if own is None or (own == "server" and name != "server"):
            wrong.append(f"{name}: no rule for it; add it to ALLOWED")
            continue
        for use in uses(name, path):
            for thing, where in ONLY_IN.items():
                if within(use.target, thing) and not any(within(name, place) for place in where):
                    wrong.append(f"{use}: only in {', '.join(sorted(where))}")
            if not use.imported or not any(within(use.target, ours) for ours in OURS):
                continue
            module = use.target if use.target in found else use.target.rpartition(".")[0]
            if module not in found:
                module = use.target
            if use.early and module != name:
                edges[name].add(module)
            mine = own != "server" and within(module, own)
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


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """One cycle for each way back that a depth-first walk meets."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: Sequence[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(edges.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return found


def test_every_module_imports_only_what_its_layer_may() -> None:
    found = modules(ROOT)
    assert {
        "server.app",
        "server.contract",
        "server.fanout.hub",
        "server.log.journal",
        "db.queries.rooms",
    } <= found.keys()
    assert violations(ROOT) == []


def test_the_layers_themselves_have_an_order() -> None:
    edges = {name: {above for part in parts if (above := layer(part))} - {name} for name, parts in ALLOWED.items()}
    assert cycles(edges) == []


GOOD = {
    "server/__init__.py": "__version__ = '1'",
    "server/contract/__init__.py": "",
    "server/contract/errors.py": "import enum",
    "server/contract/models.py": "from server.contract.errors import Error",
    "server/settings.py": "import os\nfrom pydantic_settings import BaseSettings\nhome = os.environ['HOME']",
    "server/access.py": "from db.queries import rooms\ndef load(conn): return rooms.find(conn)",
    "server/fanout/__init__.py": "",
    "server/fanout/hub.py": "from db.queries import rooms\ndef lock(conn): return rooms.lock(conn)",
    "server/log/__init__.py": "",
    "server/log/journal.py": "",
    "server/dispatch.py": "from server.contract.errors import Error",
    "server/actions/__init__.py": "",
    "server/actions/rooms.py": "from db.queries import rooms\nfrom server.dispatch import action\nx = rooms.visible",
    "server/gateways/__init__.py": "",
    "server/gateways/socketio.py": "from server.transport import engine_server",
    "server/gateways/rest.py": "import fastapi\nfrom server import __version__",
    "server/transport/__init__.py": "",
    "server/transport/engine_server.py": "from server.transport import python_socketio",
    "server/transport/python_socketio.py": "import engineio, socketio",
    "server/app.py": "from fastapi import FastAPI\nfrom server.node import Node",
    "server/node.py": "import server.actions\nclass Node: ...",
    "db/__init__.py": "",
    "db/engine.py": "",
    "db/queries/__init__.py": "",
    "db/queries/rooms.py": "import db.engine",
    "client_demo/__init__.py": "",
    "client_demo/client.py": "import os, socketio\nfrom server.contract.models import Message\nx = os.environ",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, source in GOOD.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_a_tree_that_keeps_the_rules_has_no_violations(tree: Path) -> None:
    assert violations(tree) == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("server/contract/errors.py", "from server.dispatch import action", "not for server.contract"),
        ("server/contract/errors.py", "from server import dispatch", "not for server.contract"),
        ("server/contract/errors.py", "from .. import dispatch", "not for server.contract"),
        ("server/contract/errors.py", "from ..dispatch import action", "not for server.contract"),
        ("server/contract/errors.py", "import db", "not for server.contract"),
        ("server/contract/errors.py", "def late():\n    import server.dispatch", "not for server.contract"),
        ("db/engine.py", "from server.contract.errors import Error", "not for db"),
        ("db/queries/rooms.py", "import server", "not for db"),
        ("client_demo/client.py", "from server.dispatch import Registry", "not for client_demo"),
        ("client_demo/client.py", "from db import engine", "not for client_demo"),
        ("server/fanout/hub.py", "from server.actions import rooms", "not for server.fanout"),
        ("server/fanout/hub.py", "from server.context import Context", "not for server.fanout"),
        ("server/log/journal.py", "from server.fanout.hub import Hub", "not for server.log"),
        ("server/log/journal.py", "from server.fanout.broker import Broker", "not for server.log"),
        ("server/fanout/hub.py", "from server.log.journal import Journal", "not for server.fanout"),
        ("server/gateways/rest.py", "from server.actions import rooms", "not for server.gateways"),
        ("server/gateways/rest.py", "from server.fanout.hub import Hub", "not for server.gateways"),
        ("server/gateways/rest.py", "from db.queries import rooms", "not for server.gateways"),
        ("server/transport/engine_server.py", "from server.dispatch import Registry", "not for server.transport"),
        ("server/actions/rooms.py", "from server.gateways import rest", "not for server.actions"),
        ("server/actions/rooms.py", "from db.engine import Database", "not for server.actions"),
        ("server/actions/rooms.py", "import socketio", "only in"),
        ("server/fanout/hub.py", "def late():\n    from engineio import packet", "only in"),
        ("server/gateways/rest.py", "import socketio.packet", "only in"),
        ("server/dispatch.py", "from fastapi import Request", "only in"),
        ("server/dispatch.py", "import os\nx = os.environ['A']", "only in"),
        ("server/dispatch.py", "import os as system\nx = system.getenv('A')", "only in"),
        ("db/engine.py", "from os import environ", "only in"),
        ("server/app.py", "from pydantic_settings import BaseSettings", "only in"),
        ("server/actions/rooms.py", "from db.queries import rooms as r\ndef f(c): return r.by_key(c, 1)", "only in"),
        ("server/actions/rooms.py", "from db.queries.rooms import find", "only in"),
        ("server/actions/rooms.py", "import db.queries.rooms\nx = db.queries.rooms.find_direct", "only in"),
        ("server/new.py", "", "no rule"),
        ("server/contract/errors.py", "from server.contract import models", "import cycle"),
        ("db/engine.py", "from db.queries.rooms import find", "import cycle"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, path: str, source: str, message: str) -> None:
    (tree / path).write_text(source)
    reported = violations(tree)
    assert any(message in line for line in reported), reported


def test_an_import_for_the_type_checker_alone_is_no_cycle_but_keeps_to_its_layer(tree: Path) -> None:
    errors = tree / "server/contract/errors.py"
    errors.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from server.contract import models")
    assert violations(tree) == []
    errors.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from server.app import create_app")
    assert any("not for server.contract" in line for line in violations(tree))
