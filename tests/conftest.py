"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.support.node import RunningNode, running_node
from tidings.testing import postgresql
from tidings.testing.memory import folder_in_memory
from tidings_db.schema import migrate

_no_postgresql = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    # Otherwise each worker, and each process that a test starts, would compile the project again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if "not long" in config.option.markexpr:
        os.environ["TIDINGS_TEST_DEPTH"] = "quick"
    if folder := folder_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects() -> None:
    """Hide what imports and earlier tests left from the collector: each collection would take 0.3 s longer."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash.get(_no_postgresql, None):
        terminalreporter.write_line(f"Nothing was tested on PostgreSQL: {reason}", yellow=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure when it happens: a run that is cut short prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}", flush=True)


def pytest_xdist_auto_num_workers() -> int:
    """For each two processors three workers: a test waits as long as it works."""
    return (os.cpu_count() or 1) * 3 // 2


ON_BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
"""The databases of a test; `make test` runs it on SQLite."""


@pytest.fixture(params=ON_BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database of the test's own, on SQLite and on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated, empty SQLite file."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'tidings.sqlite3')}"


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database."""
    with postgresql.database(postgresql_server, f"TEMPLATE {postgresql_template}") as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    migrate(f"sqlite:///{path}")
    return path  # all of it: who closes the file last brings the log of WAL mode home


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> Iterator[str]:
    with postgresql.database(postgresql_server) as url:
        migrate(url)
        yield make_url(url).database or ""


@pytest.fixture(scope="session")
def postgresql_server(pytestconfig: pytest.Config) -> Iterator[str]:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgresql.server())
        except postgresql.NoServer as reason:
            if os.environ.get("CI"):
                pytest.fail(f"CI must test PostgreSQL: {reason}", pytrace=False)
            pytestconfig.stash[_no_postgresql] = str(reason)
            pytest.skip(str(reason))
        yield url


@pytest.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[RunningNode]:
    """A running node, on SQLite and on PostgreSQL."""
    async with running_node(database_url, tmp_path) as node:
        yield node
