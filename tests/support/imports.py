"""The imports of modules, read from their source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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


def modules(root: Path, folders: Mapping[str, str]) -> dict[str, Path]:
    """Every module by its dotted name. `folders`: each import package -> the folder under `root` that holds it."""
    paths: dict[str, Path] = {}
    for package, folder in folders.items():
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
