"""Finds a PostgreSQL server for tests, or starts one."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg
from sqlalchemy.engine import make_url

from tidings.testing.memory import folder_in_memory

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
            url = stack.enter_context(cluster())
        except NoServer as reason:
            url = _running(reason)
        yield url


@functools.cache
def shared() -> str:
    """The URL of a database on one server for the whole process. Raises `NoServer`."""
    stack = ExitStack()
    url = stack.enter_context(server())
    atexit.register(stack.close)
    return url


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
    """Run each statement in its own transaction, as CREATE DATABASE requires. Also where an event loop runs."""

    async def run() -> None:
        conn = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=30)
        try:
            for statement in statements:
                await conn.execute(statement)
        finally:
            await conn.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


class LocalServer:
    """A PostgreSQL server on a Unix socket, with files in a folder of its own. It does not sync to the disk.

    `create`, then `start`. `remove` afterwards. Raises `NoServer` if that is not possible here.
    """

    def __init__(self) -> None:
        folders = sorted(
            (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")),
            key=lambda folder: [int(part) for part in folder.parent.name.split(".") if part.isdigit()],
        )
        on_path = shutil.which("initdb")
        programs = Path(on_path).resolve().parent if on_path else folders[-1] if folders else None
        if programs is None:
            raise NoServer("no PostgreSQL answers on 127.0.0.1:5432, and there is no initdb to start one with")
        self._programs = programs
        # In a folder with a short name: the path of a Unix socket is limited to about 100 bytes.
        self.home = Path(tempfile.mkdtemp(prefix="tidings-pg-", dir=folder_in_memory()))
        self.url = f"postgresql+asyncpg://postgres@/postgres?host={self.home}&port=5432"
        self.data = str(self.home / "data")
        self._as_user: list[str] = []
        if os.getuid() == 0:  # initdb refuses root
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                self.remove()
                raise NoServer("PostgreSQL cannot be started by root, and there is no user postgres") from None
            os.chown(self.home, owner.pw_uid, owner.pw_gid)
            self._as_user = ["runuser", "-u", "postgres", "--"]

    def create(self) -> None:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.run("initdb", "-D", self.data, *options)

    def start(self) -> None:
        # The port only names the Unix socket: the server does not listen on TCP, so it cannot conflict with another.
        options = f"-k {self.home} -c listen_addresses= -c port=5432 -c fsync=off"
        self.run("pg_ctl", "-D", self.data, "-w", "-o", options, "start")

    def stop(self) -> None:
        """End it as a crash does."""
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, program: str, *args: str) -> None:
        log = self.home / "log"
        with log.open("a") as output:
            command = [*self._as_user, str(self._programs / program), *args]
            result = subprocess.run(command, check=False, cwd=self.home, stdout=output, stderr=output, timeout=120)
            if result.returncode:
                raise NoServer(f"{program} failed: {log.read_text()[-2000:]}")


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a database on a new server, which is removed afterwards. Raises `NoServer`."""
    local = LocalServer()
    try:
        local.create()
        local.start()
        try:
            yield local.url
        finally:
            local.stop()
    finally:
        local.remove()
