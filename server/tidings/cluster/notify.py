"""Joins the nodes on one PostgreSQL by NOTIFY: wakes them to read the feed, and carries what is in no log.

Any role that may connect to the database can listen, and can notify. So payloads are sealed as messages through Redis
are (`node_messages.py`): the header and MAC of a message in base64, then its body, which is a notice, or empty.
A notice that is too long for one payload is sent in parts, whose bodies begin with a mark. A lost part loses its
notice, and no other one.

NOTIFY is never sent in the transaction that appends: its commit would hold a lock of the whole server until the disk
has synced. It is sent after the commit, at most every `FLUSH_S`, for everything until then.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from tidings.cluster.node_messages import (
    BODY,
    CONTROL,
    LONGEST,
    ClusterState,
    Header,
    Identity,
    Received,
    Refused,
    Sealer,
)
from tidings.log.notices import Carried, Notice, decode, encode
from tidings.supervision import Loop
from tidings_db.engine import Database, StoreUnavailable

if TYPE_CHECKING:
    from tidings_db.engine import Dedicated

logger = logging.getLogger("tidings.notify")

CHANNEL = "tidings"
FLUSH_S = 0.005
HEAD = len(base64.b64encode(bytes(BODY)))
"""Characters before the body of a payload."""
LONGEST_BODY = 7999 - HEAD
"""Bytes: PostgreSQL refuses payloads of 8,000."""
FIRST_PART, MORE, LAST_PART = b"<", b"=", b">"
MAX_WAITING, MAX_WAITING_BYTES = 2000, 16 * 1024 * 1024
"""Notices that wait to be sent; further ones are dropped."""
PATIENCE_S = 3.0
RETRY_S = 0.2
NOTIFY = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"


class NotifyBroker:
    """The broker of nodes without Redis."""

    trouble = ""
    carries_entries = False

    def __init__(self, database: Database, node: str, identity: Callable[[], Identity], nodes: ClusterState) -> None:
        """
        Args:
            node: the id of this node.
            identity: called at `start`.
            nodes: without other nodes, nothing is sent.
        """
        self._db = database
        self._node = node
        self._identity = identity
        self._nodes = nodes
        self._sealer: Sealer
        self._received = Received(nodes)
        self._waiting: dict[bytes, None] = {}
        """Bodies to be sent, in order."""
        self._waiting_bytes = 0
        self._begun: dict[str, tuple[int, bytes]] = {}
        """By node: the number of its last message, and the notice up to there that it is a part of."""
        self._due = asyncio.Event()
        self._connection: Dedicated | None = None
        self.dropped = 0
        """Notices that were not sent to the other nodes."""
        self.ignored = 0
        """Payloads that were not authentic, not new, or not of a live node."""
        self.loop = Loop("tidings.notify", self._run)

    async def start(self, deliver: Callable[[Notice], None]) -> None:
        self._deliver = deliver
        identity = self._identity()
        self._sealer = Sealer(identity.instance, self._node, identity.keys)
        self.loop.start()

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop.ended()
        await self._disconnect()

    def share(self, notices: Sequence[Notice]) -> None:
        if not self._nodes.others():
            return
        for notice in notices:
            body = encode(notice) if isinstance(notice, Carried) else b""
            waiting, size = len(self._waiting), self._waiting_bytes + len(body)
            if len(body) > LONGEST or (body and (waiting >= MAX_WAITING or size > MAX_WAITING_BYTES)):
                self.dropped += 1
            else:
                self._waiting[body], self._waiting_bytes = None, size
                self._due.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    connection = await self._connect()
                with suppress(TimeoutError):  # listening needs a connection, also while there is nothing to send
                    await asyncio.wait_for(self._due.wait(), PATIENCE_S)
                if self._due.is_set():
                    await asyncio.sleep(FLUSH_S)
                    self._due.clear()
                    waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
                    payloads = list(chain.from_iterable(map(self._payloads, waiting)))
                    async with asyncio.timeout(PATIENCE_S):
                        await connection.fetch(NOTIFY, CHANNEL, payloads)
            except (StoreUnavailable, TimeoutError):
                await self._disconnect()
                await asyncio.sleep(RETRY_S)

    async def _connect(self) -> Dedicated:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        await self._disconnect()
        connection = self._connection = await self._db.dedicated()
        await connection.fetch("SET synchronous_commit TO off")
        await connection.listen(CHANNEL, self._notified)
        self._nodes.wake()
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _payloads(self, body: bytes) -> Iterator[str]:
        if len(body) <= LONGEST_BODY:
            yield self._seal(body)
            return
        text = body.decode()
        width = (LONGEST_BODY - 1) // (1 if text.isascii() else 4)
        for start in range(0, len(text), width):
            mark = FIRST_PART if not start else MORE if start + width < len(text) else LAST_PART
            yield self._seal(mark + text[start : start + width].encode())

    def _seal(self, body: bytes) -> str:
        message = self._sealer.seal(CONTROL, self._nodes.epoch(), body)
        return base64.b64encode(message[:BODY]).decode() + body.decode()

    def _completed(self, header: Header, body: bytes) -> bytes:
        """The notice that a message completes; empty if parts of it are missing."""
        mark, (number, begun) = body[:1], self._begun.pop(header.node, (-1, b""))
        if mark not in (FIRST_PART, MORE, LAST_PART):
            return body
        begun = body[1:] if mark == FIRST_PART else begun + body[1:]
        if (mark != FIRST_PART and number != header.number - 1) or len(begun) > LONGEST:
            return b""
        if mark == LAST_PART:
            return begun
        live = self._nodes.others()
        self._begun = {node: parts for node, parts in self._begun.items() if node in live}
        self._begun[header.node] = header.number, begun
        return b""

    def _notified(self, payload: str) -> None:
        """A payload has come; anyone may have made it."""
        try:
            message = base64.b64decode(payload[:HEAD].encode(), validate=True) + payload[HEAD:].encode()
            if self._sealer.is_own(message):
                return
            header = self._sealer.open(CONTROL, self._nodes.epoch(), message)
            self._received.admit(header)
            if len(message) == BODY:
                self._nodes.wake()
                return
            body = self._completed(header, message[BODY:])
            if not body:
                return
            notice = decode(body)
        except (Refused, ValueError) as error:
            if not self.ignored:
                logger.warning("a notice that is not of another node, or cannot be read, is ignored: %s", error)
            self.ignored += 1
            return
        self._deliver(notice)
