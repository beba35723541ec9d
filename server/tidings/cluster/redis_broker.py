"""Joins the nodes on one PostgreSQL by Redis: entries and transient events reach the other nodes in milliseconds.

Redis holds nothing. Messages pass through its pub/sub, which may lose them, and may be away: then the feed
(`feed.py`) brings the other nodes to read from the database. So a lost message costs time, never an entry.

Nothing is delivered that is not in the database. Messages are authenticated (`node_messages.py`); they are of this
database, of the epoch of its log, and of a node that holds a lease in it. Each is received once. A node publishes
entries after their commit, so an entry of a message is the one that the log has at this seq, even if the message was
held back. Whoever can write into Redis may only delay or lose messages.

Loss is noticed by the numbers of the messages, which a heartbeat repeats every `HEARTBEAT_S`. A node that does not
hear its own heartbeats connects anew.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress

from tidings.cluster.node_messages import (
    BODY,
    CONTROL,
    FEED_CHANGED,
    HEARTBEAT,
    LONGEST,
    NOTICE,
    SHARDS,
    ClusterState,
    Header,
    Identity,
    Received,
    Refused,
    Sealer,
    control_item,
    encode_parts,
    heartbeat,
    items_of,
    numbers_of,
    parts_of,
    shard_of,
)
from tidings.cluster.redis_link import Lost, RedisLink, check_url
from tidings.log.notices import Appended, Carried, Notice, decode, encode
from tidings.supervision import Loop, spawn

logger = logging.getLogger("tidings.redis")

HEARTBEAT_S = 0.5
UNHEARD = 4
"""Heartbeats in a row that this node does not hear before it connects anew."""
CONNECT_S = 2.0
RETRY_S = 0.5
REASONS = "version", "mac", "instance", "epoch", "node", "replay"
"""Why a message is ignored."""


class RedisBroker:
    """The broker of nodes with Redis."""

    def __init__(
        self,
        urls: Sequence[str],
        node: str,
        identity: Callable[[], Identity],
        nodes: ClusterState,
        rooms: Callable[[], Container[int]],
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """
        Args:
            urls: of Redis; several for the nodes of a Redis Cluster. They are tried in turn.
            node: the id of this node.
            identity: called at `start`.
            rooms: returns the keys of those with a connection here. Entries of others are skipped.

        Raises ValueError if an URL is wrong.
        """
        for url in urls:
            check_url(url)
        self._urls = urls
        self._node = node
        self._identity = identity
        self._nodes = nodes
        self._heartbeat_s = heartbeat_s
        self._sealer: Sealer | None = None
        self._channels_out: Sequence[bytes] = ()
        """The names of the channels."""
        self._channel_of: dict[bytes, int] = {}
        self._rooms = rooms
        self._received = Received(nodes)
        self._link: RedisLink | None = None
        self._heard = 0
        """The number of the last heartbeat of this node that it has received."""
        self._unheard = 0
        self._tries = 0
        self._warned = False
        self.trouble = "not connected yet"
        """Why messages do not pass through Redis now; empty if they do."""
        self.published = self.dropped = self.messages = self.connects = 0
        """Messages published, dropped and received; how often it has connected."""
        self.ignored = Counter(dict.fromkeys(REASONS, 0))
        """Messages that are not of a live node, or not new, by the reason."""
        self.loop = Loop("tidings.redis", self._run)

    @property
    def carries_entries(self) -> bool:
        return not self.trouble

    @property
    def gaps(self) -> int:
        """How often messages of another node were missing."""
        return self._received.gaps

    async def start(self, deliver: Callable[[Notice], None]) -> None:
        """Does not wait for Redis."""
        self._deliver = deliver
        identity = self._identity()
        self._sealer = Sealer(identity.instance, self._node, identity.keys)
        names = [*map(str, range(SHARDS)), "control"]
        self._channels_out = [f"tidings:{identity.instance}:{name}".encode() for name in names]
        self._channel_of = {name: index for index, name in enumerate(self._channels_out)}
        self.loop.start()

    async def stop(self) -> None:
        self.loop.cancel()
        with suppress(asyncio.CancelledError):
            await self.loop.ended()

    # -- out -----------------------------------------------------------------------------------------------------

    def share(self, notices: Sequence[Notice]) -> None:
        if self._sealer is None or not self._nodes.others():
            return
        try:
            bodies: dict[int, list[bytes]] = {}
            for notice in notices:
                if isinstance(notice, Appended):
                    if notice.name is not None:
                        parts, complete = encode_parts(notice, notice.name)
                        self.dropped += not complete
                        bodies.setdefault(shard_of(notice.room_key), []).extend(parts)
                elif isinstance(notice, Carried):
                    bodies.setdefault(CONTROL, []).append(control_item(NOTICE, encode(notice)))
                else:
                    look = bodies.setdefault(CONTROL, [])
                    if control_item(FEED_CHANGED) not in look:
                        look.append(control_item(FEED_CHANGED))
            self._send((index, body) for index, pieces in bodies.items() for body in _joined(pieces))
        except Exception:
            logger.exception("notices could not be published to the other nodes")

    def _send(self, bodies: Iterable[tuple[int, bytes]]) -> None:
        """Publish messages. Those that cannot be sent are counted, and their numbers are missing elsewhere."""
        assert self._sealer is not None
        epoch = self._nodes.epoch()
        messages = [(self._channels_out[index], self._sealer.seal(index, epoch, body)) for index, body in bodies]
        dropped = len(messages) if self._link is None else self._link.publish(messages)
        self.dropped += dropped
        self.published += len(messages) - dropped

    # -- in ------------------------------------------------------------------------------------------------------

    def _arrived(self, channel_name: bytes, message: bytes) -> None:
        """A message has come; anyone may have made it."""
        channel = self._channel_of.get(channel_name)
        sealer = self._sealer
        if channel is None or sealer is None:
            return
        is_own = sealer.is_own(message)
        if is_own and channel != CONTROL:
            return
        self.messages += 1
        try:
            header = sealer.open(channel, self._nodes.epoch(), message)
            if is_own:
                self._heard_own(header, message)
                return
            self._received.admit(header)
            if channel == CONTROL:
                self._apply_items(header, message)
            else:
                for part in parts_of(message, self._rooms()):
                    self._deliver(part)
        except Refused as reason:
            self.ignored[str(reason)] += 1
        except (struct.error, ValueError):
            logger.exception("a message of another node cannot be read, and is ignored")

    def _heard_own(self, header: Header, message: bytes) -> None:
        if header.number > self._heard and any(kind == HEARTBEAT for kind, _ in items_of(message)):
            self._heard = header.number
            self._unheard = 0
            if self.trouble:
                self._recovered()

    def _apply_items(self, header: Header, message: bytes) -> None:
        for kind, data in items_of(message):
            if kind == HEARTBEAT:
                self._received.expect(header.node, numbers_of(data))
            elif kind == FEED_CHANGED:
                self._nodes.wake()
            elif kind == NOTICE:
                self._deliver(decode(data))

    # -- the connection ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except Lost as error:
                self._away(str(error))
            except Exception:
                self._away("the connection has failed")
                raise
            await asyncio.sleep(RETRY_S)

    async def _serve(self) -> None:
        """Connect, and beat until the connection is lost. Raises `Lost`."""
        url = self._urls[self._tries % len(self._urls)]
        self._tries += 1
        link = await RedisLink.open(url, self._channels_out, CONNECT_S)
        self._link, self._unheard = link, 0
        readers = [
            spawn(link.read_messages(self._arrived), "messages from Redis"),
            spawn(link.read_replies(), "answers of Redis"),
        ]
        try:
            while True:
                self._beat()
                ended, _ = await asyncio.wait(readers, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
                for reader in ended:
                    raise Lost(reader.result())
                if self._unheard > UNHEARD:
                    raise Lost("messages do not come back")
        finally:
            self._link = None
            for reader in readers:
                reader.cancel()
            await link.close()

    def _beat(self) -> None:
        """Publish a heartbeat with the numbers of this node's last messages."""
        assert self._sealer is not None
        numbers = list(self._sealer.numbers)
        numbers[CONTROL] += 1
        self._unheard += 1
        self._send([(CONTROL, heartbeat(numbers))])

    def _away(self, reason: str) -> None:
        self._link = None
        if not self._warned:
            self._warned = True
            logger.warning("Redis is away; what is committed reaches the other nodes by the database: %s", reason)
        if not self.trouble:
            self._nodes.wake()
        self.trouble = reason

    def _recovered(self) -> None:
        """Messages come again. Those of the other nodes may have been lost until here."""
        self.trouble = ""
        self.connects += 1
        self._warned = False
        logger.info("messages pass through Redis")
        self._nodes.wake()


def _joined(pieces: Sequence[bytes]) -> Iterable[bytes]:
    """Join pieces to bodies that fit a message; a piece that is too long by itself is left out."""
    body: list[bytes] = []
    size = 0
    for piece in pieces:
        if body and size + len(piece) > LONGEST - BODY:
            yield b"".join(body)
            body, size = [], 0
        if len(piece) <= LONGEST - BODY:
            body.append(piece)
            size += len(piece)
    if body:
        yield b"".join(body)
