"""The installed wheel works in a project whose modules have everyday names."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.support.process import ServerProcess

PROJECT = {
    "server/__init__.py": "NAME = 'their server'",
    "db.py": "NAME = 'their db'",
    "client_demo.py": "NAME = 'their client'",
    "web/__init__.py": "NAME = 'their web'",
    "tests/__init__.py": "",
    "game.py": (
        "import client_demo, db, server, web\n"
        "from tidings import create_app\n"
        "assert [m.NAME for m in (server, db, client_demo, web)] "
        "== ['their server', 'their db', 'their client', 'their web']\n"
        "app = create_app()\n"
    ),
}


def _run(*command: str, **environment: str) -> str:
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The Python of a fresh environment that has Tidings from its wheel, and the locked dependencies."""
    _run(*(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)), HATCH_BUILD_NO_HOOKS="1")
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    (site,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file brings the packages in it, but not its own .pth files: so the checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    _run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"),
        str(wheel),
    )
    return python


async def test_an_application_whose_own_modules_are_called_server_db_and_web_starts(
    installed: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for name, source in PROJECT.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(source)
    process = ServerProcess(tmp_path / "data", arguments=("--app", "game:app"), directory=project, python=installed)
    await process.start()
    try:
        where = await asyncio.to_thread(
            _run, str(installed), "-c", "import tidings; print(tidings.__file__)", PYTHONSAFEPATH="1"
        )
        assert Path(where.strip()).is_relative_to(installed.parents[1])
        assert "usage" in await asyncio.to_thread(_run, str(installed.parent / "tidings-chat"), "--help")
        (project / "test_kit.py").write_text("def test_it(tidings): assert tidings.user('omar').result().token\n")
        tested = await asyncio.to_thread(_run, str(installed), "-m", "pytest", "-q", str(project / "test_kit.py"))
        assert "1 passed" in tested
    finally:
        assert await process.terminate() == 0
