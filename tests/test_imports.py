"""The layers of the server: which package may import which, checked in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"tidings": "server", "tidings_db": "db", "tidings_chat": "client_demo"}
"""The folder that holds each import package."""

ALLOWED: dict[str, set[str]] = {
    "tidings": set(),
    "tidings.contract": set(),
    "tidings.supervision": {"tidings_db.engine"},
    "tidings.settings": {"tidings.auth.limits", "tidings.monitoring.logs", "tidings.transport.addresses"},
    "tidings.transport.addresses": set(),
    "tidings.transport.timers": set(),
    "tidings.transport": {"tidings.contract"},
    "tidings.auth.principal": set(),
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
        "tidings.transport.addresses",
        "tidings_db",
    },
    "tidings.monitoring": set(),
    "tidings.monitoring.logs": set(),
    "tidings.monitoring.metrics": {"tidings.__version__", "tidings.contract"},
    "tidings.monitoring.memory": {"tidings.supervision"},
    "tidings.monitoring.gauges": {
        "tidings.auth",
        "tidings.fanout",
        "tidings.log",
        "tidings.monitoring.logs",
        "tidings.monitoring.metrics",
        "tidings.transport",
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
    "tidings.actions.context": {
        "tidings.actions.access",
        "tidings.actions.echo_channel",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout",
        "tidings.log",
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
    },
    "tidings.actions": {
        "tidings.actions.access",
        "tidings.actions.context",
        "tidings.actions.dispatch",
        "tidings.auth",
        "tidings.contract",
        "tidings.fanout",
        "tidings.log",
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
        "tidings.log.devices",
        "tidings.log.health",
        "tidings.log.notices",
        "tidings.log.places",
        "tidings.monitoring.logs",
        "tidings.monitoring.metrics",
        "tidings.supervision",
        "tidings.transport",
        "tidings_db.engine",
        "tidings_db.queries.places",
        "tidings_db.queries.users",
    },
    "tidings.api": {"tidings.actions.access", "tidings.contract", "tidings_db.engine"},
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
        "tidings.settings",
        "tidings.supervision",
        "tidings.transport",
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
    "tidings.cli.commands": {
        "tidings.__version__",
        "tidings.app",
        "tidings.auth",
        "tidings.cli.banner",
        "tidings.cli.serving",
        "tidings.cluster.worker",
        "tidings.cluster.workers",
        "tidings.contract",
        "tidings.fanout.publisher",
        "tidings.log.epochs",
        "tidings.monitoring.logs",
        "tidings.settings",
        "tidings_db",
    },
    "tidings.__main__": {"tidings.cli.commands"},
    "tidings_db": set(),
    "tidings_chat": {"tidings.contract"},
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
        "tidings_chat",
    },
    "engineio": {"tidings.transport.python_socketio", "tidings_chat"},
    "uvicorn": {"tidings.transport.uvicorn_server", "tidings.transport.uvicorn_websocket"},
    "fastapi": {"tidings.app", "tidings.gateways"},
    "starlette": {"tidings.app", "tidings.gateways", "tidings.transport"},
    "pydantic_settings": {"tidings.settings"},
    "os.environ": {"tidings.settings", "tidings_chat"},
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
    for package, folder in FOLDERS.items():
        for path in sorted((root / folder / package).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
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
        "tidings.app",
        "tidings.contract",
        "tidings.fanout.hub",
        "tidings.log.journal",
        "tidings_db.queries.rooms",
    } <= found.keys()
    assert violations(ROOT) == []


def test_the_layers_themselves_have_an_order() -> None:
    edges = {name: {above for part in parts if (above := layer(part))} - {name} for name, parts in ALLOWED.items()}
    assert cycles(edges) == []


GOOD = {
    "server/tidings/__init__.py": "__version__ = '1'",
    "server/tidings/contract/__init__.py": "",
    "server/tidings/contract/errors.py": "import enum",
    "server/tidings/contract/models.py": "from tidings.contract.errors import Error",
    "server/tidings/settings/__init__.py": (
        "import os\nfrom pydantic_settings import BaseSettings\nhome = os.environ['HOME']"
    ),
    "server/tidings/actions/access.py": (
        "from tidings_db.queries import rooms\ndef load(conn): return rooms.find(conn)"
    ),
    "server/tidings/fanout/__init__.py": "",
    "server/tidings/fanout/hub.py": "from tidings_db.queries import rooms\ndef lock(conn): return rooms.lock(conn)",
    "server/tidings/log/__init__.py": "",
    "server/tidings/log/journal.py": "",
    "server/tidings/actions/dispatch.py": "from tidings.contract.errors import Error",
    "server/tidings/actions/__init__.py": "",
    "server/tidings/actions/rooms.py": (
        "from tidings_db.queries import rooms\nfrom tidings.actions.dispatch import action\nx = rooms.visible"
    ),
    "server/tidings/gateways/__init__.py": "",
    "server/tidings/gateways/socketio.py": "from tidings.transport import engine_server",
    "server/tidings/gateways/rest.py": "import fastapi\nfrom tidings import __version__",
    "server/tidings/transport/__init__.py": "",
    "server/tidings/transport/engine_server.py": "from tidings.transport import python_socketio",
    "server/tidings/transport/python_socketio.py": "import engineio, socketio",
    "server/tidings/app.py": "from fastapi import FastAPI\nfrom tidings.node import Node",
    "server/tidings/node.py": "import tidings.actions\nclass Node: ...",
    "db/tidings_db/__init__.py": "",
    "db/tidings_db/engine.py": "",
    "db/tidings_db/queries/__init__.py": "",
    "db/tidings_db/queries/rooms.py": "import tidings_db.engine",
    "client_demo/tidings_chat/__init__.py": "",
    "client_demo/tidings_chat/client.py": (
        "import os, socketio\nfrom tidings.contract.models import Message\nx = os.environ"
    ),
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
        (
            "server/tidings/contract/errors.py",
            "from tidings.actions.dispatch import action",
            "not for tidings.contract",
        ),
        ("server/tidings/contract/errors.py", "from tidings.actions import dispatch", "not for tidings.contract"),
        ("server/tidings/contract/errors.py", "from ..actions import dispatch", "not for tidings.contract"),
        ("server/tidings/contract/errors.py", "from ..actions.dispatch import action", "not for tidings.contract"),
        ("server/tidings/contract/errors.py", "import tidings_db", "not for tidings.contract"),
        (
            "server/tidings/contract/errors.py",
            "def late():\n    import tidings.actions.dispatch",
            "not for tidings.contract",
        ),
        ("db/tidings_db/engine.py", "from tidings.contract.errors import Error", "not for tidings_db"),
        ("db/tidings_db/queries/rooms.py", "import tidings", "not for tidings_db"),
        (
            "client_demo/tidings_chat/client.py",
            "from tidings.actions.dispatch import Registry",
            "not for tidings_chat",
        ),
        ("client_demo/tidings_chat/client.py", "from tidings_db import engine", "not for tidings_chat"),
        ("server/tidings/fanout/hub.py", "from tidings.actions import rooms", "not for tidings.fanout"),
        ("server/tidings/fanout/hub.py", "from tidings.actions.context import Context", "not for tidings.fanout"),
        ("server/tidings/log/journal.py", "from tidings.fanout.hub import Hub", "not for tidings.log"),
        ("server/tidings/log/journal.py", "from tidings.cluster.broker import Broker", "not for tidings.log"),
        ("server/tidings/fanout/hub.py", "from tidings.log.journal import Journal", "not for tidings.fanout"),
        ("server/tidings/gateways/rest.py", "from tidings.actions import rooms", "not for tidings.gateways"),
        ("server/tidings/gateways/rest.py", "from tidings.fanout.hub import Hub", "not for tidings.gateways"),
        ("server/tidings/gateways/rest.py", "from tidings_db.queries import rooms", "not for tidings.gateways"),
        (
            "server/tidings/transport/engine_server.py",
            "from tidings.actions.dispatch import Registry",
            "not for tidings.transport",
        ),
        ("server/tidings/actions/rooms.py", "from tidings.gateways import rest", "not for tidings.actions"),
        ("server/tidings/actions/rooms.py", "from tidings_db.engine import Database", "not for tidings.actions"),
        ("server/tidings/actions/rooms.py", "import socketio", "only in"),
        ("server/tidings/fanout/hub.py", "def late():\n    from engineio import packet", "only in"),
        ("server/tidings/gateways/rest.py", "import socketio.packet", "only in"),
        ("server/tidings/actions/dispatch.py", "from fastapi import Request", "only in"),
        ("server/tidings/actions/dispatch.py", "import os\nx = os.environ['A']", "only in"),
        ("server/tidings/actions/dispatch.py", "import os as system\nx = system.getenv('A')", "only in"),
        ("db/tidings_db/engine.py", "from os import environ", "only in"),
        ("server/tidings/app.py", "from pydantic_settings import BaseSettings", "only in"),
        (
            "server/tidings/actions/rooms.py",
            "from tidings_db.queries import rooms as r\ndef f(c): return r.by_key(c, 1)",
            "only in",
        ),
        ("server/tidings/actions/rooms.py", "from tidings_db.queries.rooms import find", "only in"),
        (
            "server/tidings/actions/rooms.py",
            "import tidings_db.queries.rooms\nx = tidings_db.queries.rooms.find_direct",
            "only in",
        ),
        ("server/tidings/new.py", "", "no rule"),
        ("server/tidings/contract/errors.py", "from tidings.contract import models", "import cycle"),
        ("db/tidings_db/engine.py", "from tidings_db.queries.rooms import find", "import cycle"),
    ],
)
def test_a_planted_violation_is_found(tree: Path, path: str, source: str, message: str) -> None:
    (tree / path).write_text(source)
    reported = violations(tree)
    assert any(message in line for line in reported), reported


def test_an_import_for_the_type_checker_alone_is_no_cycle_but_keeps_to_its_layer(tree: Path) -> None:
    errors = tree / "server/tidings/contract/errors.py"
    errors.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tidings.contract import models")
    assert violations(tree) == []
    errors.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tidings.app import create_app")
    assert any("not for tidings.contract" in line for line in violations(tree))
