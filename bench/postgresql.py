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
    """PostgreSQL is not installed, or one of its programs failed."""


def programs() -> Path:
    """Where `initdb`, `pg_ctl` and `pgbench` are. Raises `NoPostgreSQL`."""
    if pg_ctl := shutil.which("pg_ctl"):
        return Path(pg_ctl).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise NoPostgreSQL("PostgreSQL is not installed: there is no pg_ctl")
    return versions[-1].parent


def _run(program: str, *args: str, seconds: float = 120.0) -> str:
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # initdb refuses root
    command = [*as_user, str(programs() / program), *args]
    with tempfile.TemporaryFile("w+") as file:  # a started server keeps it open: a pipe would not end
        process = subprocess.run(
            command, check=False, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=seconds
        )
        file.seek(0)
        output = file.read()
    if process.returncode:
        raise NoPostgreSQL(f"{program} failed: {output[-2000:]}")
    return output


@contextmanager
def cluster(home: Path) -> Iterator[str]:
    """The URL of a new cluster's database; it runs on the load generator's core, and is deleted afterwards."""
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
    """The rate of one client of pgbench, with durable, prepared INSERTs of one row in a transaction each."""
    sockets = make_url(url).query["host"]
    assert isinstance(sockets, str)
    script = Path(sockets) / "insert.sql"
    script.write_text(INSERT)
    connect = ["-h", sockets, "-U", "postgres"]
    table = "CREATE TABLE IF NOT EXISTS bench (id bigserial PRIMARY KEY, room int, content text, at timestamptz)"
    _run("psql", *connect, "-c", table, "postgres")
    with on_core(cores()[0]):  # the core of the servers
        output = _run(
            "pgbench", *connect, "-n", "-M", "prepared", "-c", "1", "-T", str(max(1, round(seconds))),
            *("-f", str(script), "postgres"),
        )  # fmt: skip
    rate = re.search(r"tps = ([0-9.]+)", output)
    if rate is None:
        raise NoPostgreSQL(f"pgbench printed no rate: {output[-500:]}")
    return float(rate[1])
