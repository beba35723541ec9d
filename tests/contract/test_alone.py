"""A client can use the contract alone, without the packages that the server needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "server").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "server/tidings/contract").rglob("*.py")
)

_REFUSING = """
import importlib, sys

ALLOWED = {"tidings", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED | sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ImportError(f"the contract must not need {name}")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
own = {name for name in sys.modules if name.partition(".")[0] in ("tidings", "tidings_db", "tidings_chat")}
print(*sorted(own))
"""


def _imported(*names: str) -> set[str]:
    """The modules of Tidings that an import with only pydantic available has loaded."""
    result = subprocess.run(
        [sys.executable, "-c", _REFUSING, *names], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("name", MODULES)
def test_each_module_of_the_contract_imports_only_pydantic(name: str) -> None:
    assert name in (modules := _imported(name))
    assert modules - {"tidings"} <= set(MODULES)


def test_the_package_itself_imports_nothing() -> None:
    assert _imported("tidings") == {"tidings"}


@pytest.mark.parametrize("name", ["tidings.settings", "tidings.gateways.rest", "tidings_db.models"])
def test_a_module_that_needs_more_packages_is_detected(name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _REFUSING, name], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert "the contract must not need" in result.stderr


def test_the_wheel_declares_that_it_is_typed(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        env=os.environ | {"HATCH_BUILD_NO_HOOKS": "1"},  # the hook would rebuild the page, which other tests read
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {
        "tidings/py.typed",
        "tidings_db/py.typed",
        "tidings_chat/py.typed",
        "tidings/contract/actions.py",
    } <= names
