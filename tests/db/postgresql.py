"""Finds a PostgreSQL server for the tests, or starts one."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg
from sqlalchemy.engine import make_url

from tests.support.memory import folder_in_memory

DEFAULTS = (
    "postgresql+asyncpg://root@127.0.0.1:5432/postgres",
    "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres",
)

CONNECTION_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class NoServer(Exception):
    """No PostgreSQL server is available; the message says why."""


@contextmanager
def server() -> Iterator[str]:
    """The URL of a database on the configured server, on a new cluster, or on a running server, in this order.

    The new cluster does not sync to the disk.
    """
    if configured := os.environ.get("TIDINGS_TEST_POSTGRES"):
        try:
            execute(configured, "SELECT 1")
        except CONNECTION_ERRORS as error:
            raise NoServer(f"TIDINGS_TEST_POSTGRES does not answer: {error}") from None
        yield configured
        return
    with ExitStack() as stack:
        try:
            url = stack.enter_context(_cluster())
        except NoServer as reason:
            url = _running(reason)
        yield url


def _running(reason: NoServer) -> str:
    for url in DEFAULTS:
        with suppress(*CONNECTION_ERRORS):
            execute(url, "SELECT 1")
            return url
    raise reason


@contextmanager
def database(server_url: str, options: str = "") -> Iterator[str]:
    """The URL of a new database with a random name, which is dropped afterwards, open connections included."""
    name = f"tidings_test_{secrets.token_hex(8)}"
    execute(server_url, f"CREATE DATABASE {name} {options}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def execute(url: str, *statements: str) -> None:
    """Run each statement in its own transaction, as CREATE DATABASE requires."""

    async def run() -> None:
        conn = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=30)
        try:
            for statement in statements:
                await conn.execute(statement)
        finally:
            await conn.close()

    asyncio.run(run())


@contextmanager
def _cluster() -> Iterator[str]:
    folders = sorted(
        (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
        key=lambda folder: [int(part) for part in folder.parent.name.split(".") if part.isdigit()],
    )
    on_path = shutil.which("initdb")
    programs = Path(on_path).parent if on_path else folders[-1] if folders else None
    if programs is None:
        raise NoServer("no PostgreSQL answers on 127.0.0.1:5432, and there is no initdb to start one with")
    # In a folder with a short name: the path of a Unix socket is limited to about 100 bytes.
    home = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir=folder_in_memory()))
    as_user: list[str] = []
    if os.getuid() == 0:  # initdb refuses root
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            shutil.rmtree(home)
            raise NoServer("PostgreSQL cannot be started by root, and there is no user postgres") from None
        os.chown(home, owner.pw_uid, owner.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *args: str) -> None:
        log = home / "log"
        with log.open("a") as output:
            command = [*as_user, str(programs / program), *args]
            result = subprocess.run(command, check=False, cwd=home, stdout=output, stderr=output, timeout=120)
            if result.returncode:
                raise NoServer(f"{program} failed: {log.read_text()[-2000:]}")

    data = str(home / "data")
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        # The port only names the Unix socket: the server does not listen on TCP, so it cannot conflict with another.
        options = f"-k {home} -c listen_addresses= -c port=5432 -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-o", options, "start")
        try:
            yield f"postgresql+asyncpg://postgres@/postgres?host={home}&port=5432"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
