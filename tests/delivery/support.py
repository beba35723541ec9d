"""Helpers of the delivery tests: a reader that can pause, a log filled quickly, a store that blocks or fails."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import secrets
import socket
import sqlite3
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import Connection as Transaction
from sqlalchemy.engine import make_url
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.support.client import DEADLINE_S, Client
from tests.support.network import Conditions
from tests.support.node import NO_TLS, RunningNode
from tests.support.timers import Timers
from tidings.auth.principal import Principal
from tidings.contract.errors import CloseReason
from tidings.fanout.connection import Batch
from tidings.transport.socketio_codecs import TextCodec
from tidings_db import models
from tidings_db.engine import Database
from tidings_db.queries import consumers, log, rooms, users
from tidings_db.queries.rows import EntryRow
from tidings_db.queries.search import CONSUMER

Nodes = tuple[RunningNode, RunningNode]
_HEAD = re.compile(r"^4(\d)(\d*)")
TRANSPORTS = {"polling": ["polling"], "upgrade": ["polling", "websocket"], "websocket": ["websocket"]}
BAD = Conditions(delay=0.004, jitter=0.012, split=900, ragged=True)
"""A bad network in both directions: slower than the database, and it splits frames."""


def clients_over(transports: list[str]) -> Mapping[str, Callable[..., Any]]:
    """`Client` and `connected` of `tests.support.client`, over these transports instead of WebSocket alone."""

    class TransportClient(Client):
        async def connect(self, transports_: list[str] | None = None, *, ready: bool = True) -> Client:
            return await super().connect(transports_ or transports, ready=ready)

        async def close(self) -> None:
            with warnings.catch_warnings():
                # The library closes its HTTP session without reading the answer to its last request.
                warnings.simplefilter("ignore", ResourceWarning)
                await super().close()
                gc.collect()

    @asynccontextmanager
    async def connected(url: str, token: str, **auth: Any) -> AsyncIterator[Client]:
        client = TransportClient(url, token, **auth)
        await client.connect()
        try:
            yield client
        finally:
            await client.close()

    return {"Client": TransportClient, "connected": connected}


class Reader:
    """A connection that reads and answers PINGs only on request.

    Its buffers are small, so the server notices soon that it has paused.
    """

    def __init__(self, ws: ClientConnection) -> None:
        self._ws = ws
        self._asked = 0
        self.events: list[tuple[str, Any]] = []
        self.frames: list[str] = []

    async def next(self) -> str:
        """Read one frame; events in it are kept in `events`. Raises `ConnectionClosed`."""
        frame = await asyncio.wait_for(self._ws.recv(), DEADLINE_S)
        assert isinstance(frame, str)
        self.frames.append(frame)
        if frame.startswith("42"):
            name, payload = json.loads(frame[2:])
            self.events.append((name, payload))
        return frame

    async def until_event(self, name: str) -> Any:
        while True:
            if (await self.next()).startswith(f'42["{name}",'):
                return self.events[-1][1]

    async def until_ping(self) -> None:
        """Read up to a PING, without answering it."""
        while await self.next() != "2":
            pass

    async def pong(self) -> None:
        await self._ws.send("3")

    async def read_until_ready(self, frames: int) -> bool:
        """Read that many frames, or up to `ready`, answering PINGs; returns whether `ready` has arrived."""
        for _ in range(frames):
            if await self.next() == "2":
                await self.pong()
            if self.events and self.events[-1][0] == "ready":
                return True
        return False

    async def ask(self, action: str, **fields: Any) -> Any:
        """Perform an action, reading everything up to its answer: all of `events` then preceded the answer."""
        self._asked += 1
        await self._send(action, fields)
        while True:
            frame = await self.next()
            if frame == "2":
                await self.pong()
            elif frame.startswith(f"43{self._asked}["):
                return json.loads(frame[len(f"43{self._asked}") :])[0]

    async def _send(self, action: str, fields: Mapping[str, Any]) -> None:
        await self._ws.send(f"42{self._asked}" + json.dumps([action, fields]))

    async def until_closed(self) -> None:
        """Read until the server closes the connection."""
        try:
            while True:
                if await self.next() == "2":
                    with suppress(ConnectionClosed):  # unread frames may remain after the close
                        await self.pong()
        except ConnectionClosed:
            pass

    async def close(self) -> None:
        await self._ws.close()

    def seqs(self, room_id: str) -> list[int]:
        """The seqs of the room's entries received so far."""
        return [p["seq"] for n, p in self.events if p.get("seq") and p["room_id"] == room_id]


@asynccontextmanager
async def reader(
    url: str,
    token: str,
    *,
    ready: bool = True,
    connected: Callable[[Reader], Awaitable[object]] | None = None,
    **auth: Any,
) -> AsyncIterator[Reader]:
    """`connected` is awaited after the handshake, before it authenticates."""
    async with small_socket(url, "/socket.io/?EIO=4&transport=websocket") as ws:
        connection = Reader(ws)
        await connection.next()
        if connected is not None:
            await connected(connection)
        await ws.send("40" + json.dumps({"token": token, **auth}))
        while not (await connection.next()).startswith("40"):
            pass
        if ready:
            await connection.until_event("ready")
        yield connection


@asynccontextmanager
async def small_socket(url: str, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A WebSocket with small buffers."""
    address = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    async with connect(
        f"ws://{address.netloc}{path}",
        sock=sock,
        max_queue=4,
        max_size=None,
        compression=None,
        ping_interval=None,
        close_timeout=0.1,
        **options,
    ) as ws:
        yield ws


class _ManualPongProtocol(ClientProtocol):
    """Does not answer PINGs by itself: passes them on as text frames."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            frame = Frame(Opcode.TEXT, json.dumps({"ping": bytes(frame.data).hex()}).encode())
        super().recv_frame(frame)


def manual_pong_connection(protocol: ClientProtocol, **options: Any) -> ClientConnection:
    protocol.__class__ = _ManualPongProtocol
    return ClientConnection(protocol, **options)


class PlainReader(Reader):
    """As `Reader`, over a plain WebSocket; `frames` are translated to those of Socket.IO."""

    async def next(self) -> str:
        raw = json.loads(await asyncio.wait_for(self._ws.recv(), DEADLINE_S))
        if "ping" in raw:
            self._ping, frame = raw["ping"], "2"
        elif "event" in raw:
            self.events.append((raw["event"], raw["data"]))
            frame = "42" + json.dumps([raw["event"], raw["data"]], separators=(",", ":"))
        else:
            frame = f"43{raw.pop('id')}" + json.dumps([raw])
        self.frames.append(frame)
        return frame

    async def pong(self, payload: bytes | None = None) -> None:
        """Answer the last PING, with its payload or another one."""
        await self._ws.pong(bytes.fromhex(self._ping) if payload is None else payload)

    async def _send(self, action: str, fields: Mapping[str, Any]) -> None:
        await self._ws.send(json.dumps({"id": self._asked, "action": action, "data": fields}))


@asynccontextmanager
async def plain_reader(url: str, token: str, *, ready: bool = True, **auth: Any) -> AsyncIterator[PlainReader]:
    async with small_socket(url, "/ws", create_connection=manual_pong_connection) as ws:
        connection = PlainReader(ws)
        assert (await connection.ask("authenticate", token=token, **auth))["ok"]
        if ready:
            await connection.until_event("ready")
        yield connection


def rest(url: str, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, verify=NO_TLS, headers={"Authorization": f"Bearer {token}"}, timeout=30)


async def make_topic(url: str, token: str, name: str, *members: str, is_private: bool = False) -> str:
    """Create a topic over REST as the token's user; `members` are tokens that subscribe. Returns the room_id."""
    async with rest(url, token) as http:
        answer = await http.post("/api/topics", json={"topic_name": name, "is_private": is_private})
        assert answer.status_code == 201, answer.text
    for member in members:
        async with rest(url, member) as http:
            joined = await http.post("/api/subscriptions", json={"topic_name": name})
            assert joined.status_code == 201, joined.text
    room_id: str = answer.json()["room_id"]
    return room_id


async def fill(
    database: Database, sender: str, contents: Mapping[str, Sequence[str]], *, indexed: bool = False
) -> None:
    """Append messages (room_id -> contents) directly to the logs of rooms without connections.

    `indexed`: mark them as indexed, so that the indexer does no work while a server is measured.
    """

    def append(conn: Transaction) -> None:
        user = users.by_key(conn, sender)
        assert user is not None
        entries, heads = [], []
        for room_id, new_contents in contents.items():
            room = rooms.find(conn, room_id=room_id)
            assert room is not None
            for n, content in enumerate(new_contents, 1):
                entries.append(
                    EntryRow(
                        room_key=room.key,
                        seq=room.last_seq + n,
                        kind="message",
                        message_id=secrets.token_hex(16),
                        sender_key=user.key,
                        sender=sender,
                        client_id=None,
                        content=content,
                        reply_to=None,
                        body=None,
                        messages=room.messages + n,
                        created_at=1_700_000_000_000 + n,
                        edited_at=None,
                        deleted=False,
                    )
                )
            last = entries[-1]
            heads.append(room._replace(last_seq=last.seq, messages=last.messages, last_message_seq=last.seq))
        log.add(conn, entries)
        rooms.save_heads(conn, heads)
        for room in heads if indexed else ():
            consumers.skip(conn, CONSUMER, room.key, room.last_seq)

    await database.write(append)


def principal(node: RunningNode, username: str) -> Principal:
    """The principal of a connected user."""
    return next(c.principal for c in node.node.hub.connections if c.principal.username == username)


def expiry_timers(monkeypatch: pytest.MonkeyPatch, node: RunningNode) -> Timers:
    """Those by which the tokens of all later connections expire."""
    timers = Timers()
    monkeypatch.setattr(node.node.hub, "_timers", timers)
    return timers


@asynccontextmanager
async def store_held(url: str) -> AsyncIterator[None]:
    """Keep transactions that append from committing: another program has the lock that they need."""
    if url.startswith("sqlite"):
        conn = sqlite3.connect(make_url(url).database or "", isolation_level=None)
        conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            conn.rollback()
            conn.close()
    else:
        conn = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(False))
        try:
            async with conn.transaction():
                await conn.execute("LOCK TABLE entry IN SHARE ROW EXCLUSIVE MODE")
                yield
        finally:
            await conn.close()


async def stored(url: str, room_id: str) -> list[str]:
    """The contents of a room's messages, as another process reads them from the database."""
    query = "SELECT content FROM entry JOIN room ON room.id = entry.room_id WHERE room.room_id = {} ORDER BY seq"
    if url.startswith("sqlite"):
        conn = sqlite3.connect(make_url(url).database or "")
        try:
            return [content for (content,) in conn.execute(query.format("?"), (room_id,))]
        finally:
            conn.close()
    conn = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(False))
    try:
        return [row["content"] for row in await conn.fetch(query.format("$1"), room_id)]
    finally:
        await conn.close()


async def stored_cursors(node: RunningNode, room_id: str) -> list[int]:
    """The cursors in a room that are in the database."""

    def read(conn: Transaction) -> list[int]:
        in_room = select(models.cursors.c.seq).join_from(models.cursors, models.rooms)
        return list(conn.scalars(in_room.where(models.rooms.c.room_id == room_id)))

    return await node.node.database.read(read)


async def break_store(database: Database) -> Callable[[], Any]:
    """From now on a commit with a long message fails for lack of space; the returned function repairs the store."""
    if database.is_sqlite:

        def full(conn: Transaction) -> None:
            (pages,) = conn.exec_driver_sql("PRAGMA page_count").one()
            conn.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        await database.write(full)

        async def mend() -> None:
            pass  # the limit belonged to the connection, which was dropped when it failed

        return mend

    def trigger(conn: Transaction) -> None:
        conn.execute(
            text(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
            )
        )
        conn.execute(
            text(
                "CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION full_disk()"
            )
        )

    await database.write(trigger)

    async def drop() -> None:
        await database.write(lambda conn: conn.execute(text("DROP TRIGGER full_disk ON entry")))

    return drop


def seqs(client: Client, room_id: str) -> list[int]:
    """The seqs of the room's entries received so far."""
    return [p["seq"] for n, p in client.events if p.get("seq") and p["room_id"] == room_id]


class RecordingLink:
    """A connection's link whose far end reads on request."""

    codec = TextCodec()
    gateway = transport = "recording"
    buffered = 0

    @property
    def reason(self) -> str:
        return str(self.closed)

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.closed: CloseReason | None = None
        self.waiting = asyncio.Event()
        """Set while a writer waits for the far end to read."""
        self._reads = asyncio.Event()
        self._arrived = asyncio.Event()

    def write(self, batch: Batch) -> None:
        assert self.closed is None
        self.written += [tuple(json.loads(message.removeprefix(b"42"))) for message in batch.messages(self.codec)]
        self._arrived.set()

    async def drain(self) -> None:
        self._reads.clear()
        self.waiting.set()
        await self._reads.wait()

    def confirm(self) -> None: ...

    def close(self, reason: CloseReason) -> None:
        self.closed = reason

    async def until(self, count: int) -> None:
        """Wait until that many events were written."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.written) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def read(self) -> None:
        """Read everything that was written."""
        self.waiting.clear()
        self._reads.set()
