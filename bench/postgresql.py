"""A PostgreSQL cluster of the benchmark's own: durable, on the disk that is measured; and pgbench on it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from bench.cpu import cores, on_core

SETTINGS = "-c listen_addresses= -c shared_buffers=256MB -c max_wal_size=4GB"


class NoPostgreSQL(OSError):
    """There are no programs of PostgreSQL here, or they fail."""


def programs() -> Path:
    """Where `initdb`, `pg_ctl` and `pgbench` are. Raises `NoPostgreSQL`."""
    if named := shutil.which("pg_ctl"):
        return Path(named).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise NoPostgreSQL("PostgreSQL is not installed: there is no pg_ctl")
    return versions[-1].parent


def _run(program: str, *args: str, seconds: float = 120.0) -> str:
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # initdb refuses root
    command = [*as_user, str(programs() / program), *args]
    with tempfile.TemporaryFile("w+") as output:  # a server that is started holds it open: a pipe would not end
        done = subprocess.run(
            command, check=False, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=seconds
        )
        output.seek(0)
        said = output.read()
    if done.returncode:
        raise NoPostgreSQL(f"{program} failed: {said[-2000:]}")
    return said


@contextmanager
def cluster(home: Path) -> Iterator[str]:
    """The URL of a new cluster's database; it runs beside the load generator, and is gone afterwards."""
    home.mkdir(parents=True)
    # The path of a Unix socket has a limit of some 100 bytes.
    sockets = Path(tempfile.mkdtemp(prefix="tidings-pg-"))
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        for folder in (home, sockets):
            os.chown(folder, owner.pw_uid, owner.pw_gid)
    data = str(home / "data")
    try:
        _run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        with on_core(cores()[1]):
            _run("pg_ctl", "-D", data, "-w", "-l", str(home / "log"), "-o", f"-k {sockets} {SETTINGS}", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={sockets}&port=5432"
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


INSERT = """\\set room random(1, 1000)
INSERT INTO bench (room, content, at) VALUES (:room, repeat('x', 100), now());
"""


def inserts_per_second(url: str, seconds: float) -> float:
    """What one client of pgbench gets: durable INSERTs of one row each, a transaction each, prepared."""
    sockets = make_url(url).query["host"]
    assert isinstance(sockets, str)
    script = Path(sockets) / "insert.sql"
    script.write_text(INSERT)
    connect = ["-h", sockets, "-U", "postgres"]
    table = "CREATE TABLE IF NOT EXISTS bench (id bigserial PRIMARY KEY, room int, content text, at timestamptz)"
    _run("psql", *connect, "-c", table, "postgres")
    with on_core(cores()[0]):  # as the server that is compared
        said = _run(
            "pgbench", *connect, "-n", "-M", "prepared", "-c", "1", "-T", str(max(1, round(seconds))),
            *("-f", str(script), "postgres"),
        )  # fmt: skip
    found = re.search(r"tps = ([0-9.]+)", said)
    if found is None:
        raise NoPostgreSQL(f"pgbench said: {said[-500:]}")
    return float(found[1])
