"""Names and words: one definition for each, docstrings that open with their noun, helpers in modules of their own."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def definitions(root: Path) -> dict[str, list[str]]:
    """Where each class and module-level type alias under `root` is defined, by its name."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        names = [(node.name, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        names += [
            (node.targets[0].id, node.lineno)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _is_type(node.targets[0].id)
        ]
        for name, line in names:
            places[name].append(f"{path.relative_to(root)}:{line}")
    return places


def _is_type(name: str) -> bool:
    """Constants are in capitals; `T` is a type variable, of which each module has its own."""
    bare = name.lstrip("_")
    return bare[:1].isupper() and not bare.isupper()


def repeated(root: Path) -> dict[str, list[str]]:
    return {name: places for name, places in definitions(root).items() if len(places) > 1}


def test_every_class_name_of_the_server_is_defined_once() -> None:
    assert {"Dispatcher", "Registry"} <= definitions(ROOT / "server").keys()
    assert repeated(ROOT / "server") == {}


def test_a_name_that_is_defined_twice_is_found(tmp_path: Path) -> None:
    (tmp_path / "rooms.py").write_text("class Rooms: ...\nT = TypeVar('T')\nMAX = 1")
    (tmp_path / "models.py").write_text("Rooms = list[str]\nT = TypeVar('T')\nMAX = 2")
    assert repeated(tmp_path) == {"Rooms": ["models.py:1", "rooms.py:1"]}


RIDDLES = ("As", "Like", "What", "Who")
"""A docstring that opens with one of these makes its reader solve a relative clause before its noun is known."""


def riddles(root: Path) -> list[str]:
    """The docstrings under `root`, of attributes too, that open with a word of `RIDDLES`."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                words = node.value.value.split(maxsplit=1)
                if words and words[0] in RIDDLES:
                    found.append(f"{path.relative_to(root)}:{node.lineno}")
    return found


def test_no_docstring_opens_with_a_riddle() -> None:
    folders = "server", "db", "client_demo", "clients/python"
    assert [line for folder in folders for line in riddles(ROOT / folder)] == []


def test_a_riddle_is_found_in_every_kind_of_docstring(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text('"""A room."""\n\ndef enter():\n    """Enter a room."""')
    assert riddles(tmp_path) == []
    (tmp_path / "odd.py").write_text('"""What a room is."""\nSIZE = 1\n"""As large as it is."""\n')
    assert riddles(tmp_path) == ["odd.py:1", "odd.py:3"]


# -- the modules of the tests ----------------------------------------------------------------------------------------

TESTS = ROOT / "tests"
LINES = 500
EXCEPTIONS = {
    *("db/test_one_message", "dialects/test_topics_connections"),
    "extending/test_untrusted_clients",
}
"""They still import helpers from another test module."""


def importers(root: Path) -> set[str]:
    """The test modules under `root` that import from another test module."""
    found = set()
    for path in root.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("tests.") and module.rpartition(".")[2].startswith("test_"):
                found.add(path.relative_to(root).with_suffix("").as_posix())
    return found


def long_modules(root: Path) -> list[str]:
    sources = (path for path in root.rglob("*.py") if "node_modules" not in path.parts)
    return [str(path) for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > LINES]


def test_no_test_module_imports_from_another_one() -> None:
    assert importers(TESTS) - EXCEPTIONS == set()


def test_no_module_of_the_tests_is_long() -> None:
    assert long_modules(TESTS) == []


def test_an_import_from_a_test_module_and_a_long_module_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_rooms.py").write_text(
        "from tests.rooms.test_names import ROOM\nfrom tests.rooms.names import A\n"
    )
    (tmp_path / "test_names.py").write_text("from tests.rooms.names import A\n")
    (tmp_path / "names.py").write_text("A = 1\n" * (LINES + 1))
    assert importers(tmp_path) == {"test_rooms"}
    assert long_modules(tmp_path) == [str(tmp_path / "names.py")]
