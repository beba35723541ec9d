"""A bad network on loopback: a TCP proxy that delays, splits, merges, throttles, freezes, swallows and cuts.

`async with network(server.url, down=Conditions(delay=0.05)) as bad:` gives clients `bad.url` instead of the server's.
"Up" is from the client to the server, "down" from the server to the client. Random values come from generators
seeded by `seed`, the number of the link and its direction, so the same seed gives the same network.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Direction = Literal["up", "down"]
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]

READ_BYTES: Final = 64 * 1024
BURST_S: Final = 0.1
"""After a pause, the bytes of so many seconds at the rate pass without delay."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Conditions:
    """What happens to the bytes of one direction. The order of bytes is always kept."""

    delay: float = 0.0
    """Seconds by which every byte is delayed."""
    jitter: float = 0.0
    """Up to so many seconds more, random for each piece."""
    split: int = 0
    """Bytes of the largest piece that is written at a time; 0: pieces stay as they were read."""
    ragged: bool = False
    """Pieces of a random size from 1 to `split` bytes, instead of `split` bytes each."""
    merge: float = 0.0
    """Seconds for which a piece waits for further bytes, to be written together."""
    rate: float = 0.0
    """Bytes per second, except for a burst after a pause; 0: unlimited."""
    buffer: int = 1024 * 1024
    """Bytes that may be in transit; beyond them the sender gets back pressure."""


PERFECT: Final = Conditions()


class Network:
    """A proxy to one server. Every TCP connection through it is a `Link`; `links` holds those that are alive."""

    def __init__(self, target: str, up: Conditions = PERFECT, down: Conditions = PERFECT, *, seed: int = 0) -> None:
        """`target`: the URL or `host:port` of the server, or the path of its Unix socket.

        `up` and `down` may be replaced while it runs.
        """
        self._target: tuple[str, int] | str = target
        if not target.startswith("/"):
            address = urlsplit(target if "//" in target else f"//{target}")
            assert address.hostname is not None
            assert address.port is not None
            self._target = address.hostname, address.port
        self.conditions: dict[Direction, Conditions] = {"up": up, "down": down}
        self.seed = seed
        self.links: list[Link] = []
        self.opened = 0
        """The number of links so far."""
        self.url = ""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._swallowing: frozenset[Direction] = frozenset()
        self._cut_next: list[tuple[Direction, int, bool]] = []
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=self._limit("up"))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Reset every link."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    # -- faults of every link ------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Hold all bytes, in transit or new, until `thaw`. Nothing is lost."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def swallow(self, *directions: Direction) -> None:
        """Half-open: from now on bytes and ends of these directions (default: both) vanish.

        New links behave the same until `heal`. A link that has lost bytes never recovers.
        """
        self._swallowing = frozenset(directions or ("up", "down"))
        for link in self.links:
            link.swallowing |= self._swallowing

    def refuse(self) -> None:
        """Reset new links, until `heal`."""
        self._refusing = True

    def heal(self) -> None:
        """New links work again."""
        self._swallowing = frozenset()
        self._refusing = False

    def cut(self, *, reset: bool = True) -> int:
        """End every link by RST or FIN on both sides; bytes in transit are lost. Returns the number of links."""
        links = list(self.links)
        for link in links:
            link.cut(reset=reset)
        return len(links)

    def cut_next(self, direction: Direction, after: int, *, reset: bool = True) -> None:
        """End the next link after so many bytes of that direction, perhaps within a frame.

        Further calls apply to the links after it.
        """
        self._cut_next.append((direction, after, reset))

    # -- links ---------------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._refusing:
                _reset(writer)
                return
            try:
                if isinstance(self._target, str):
                    to_server = await asyncio.open_unix_connection(self._target, limit=self._limit("down"))
                else:
                    to_server = await asyncio.open_connection(*self._target, limit=self._limit("down"))
            except OSError:
                _reset(writer)
                return
            await self._link((reader, writer), to_server)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _link(self, client: Ends, server: Ends) -> None:
        link = Link(self, self.opened, client, server)
        self.opened += 1
        link.swallowing |= self._swallowing
        if self._cut_next:
            direction, after, reset = self._cut_next.pop(0)
            link.cut_after(direction, after, reset=reset)
        self.links.append(link)
        try:
            await link.run()
        finally:
            self.links.remove(link)

    def _limit(self, direction: Direction) -> int:
        return min(READ_BYTES, self.conditions[direction].buffer)

    async def flow(self) -> None:
        """Wait while the network is frozen."""
        await self._flowing.wait()


class Link:
    """One TCP connection through the network."""

    def __init__(self, network: Network, number: int, client: Ends, server: Ends) -> None:
        self.network = network
        self.number = number
        self.swallowing: frozenset[Direction] = frozenset()
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes that have passed."""
        self._writers = client[1], server[1]
        directions: tuple[Direction, Direction] = ("up", "down")
        for writer, direction in zip(self._writers, directions, strict=True):  # the writer's socket is also read from
            sock, buffer = writer.get_extra_info("socket"), network.conditions[direction].buffer
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if buffer <= READ_BYTES:  # below a segment of loopback TCP waits for a timer
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._pipes = (
            _Pipe(self, "up", client[0], server[1]),
            _Pipe(self, "down", server[0], client[1]),
        )
        self._cut: dict[Direction, tuple[int, bool]] = {}
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def cut(self, *, reset: bool = True) -> None:
        """End the link on both sides; bytes in transit are lost."""
        for writer in self._writers:
            if reset:
                _reset(writer)
            else:
                writer.close()
        if not self._over.done():
            self._over.set_result(None)

    def cut_after(self, direction: Direction, after: int, *, reset: bool = True) -> None:
        """End the link when so many more bytes of that direction have passed."""
        self._cut[direction] = self.passed[direction] + after, reset

    def until_cut(self, direction: Direction) -> int | None:
        """Bytes that may pass before the cut; None: no limit."""
        return self._cut[direction][0] - self.passed[direction] if direction in self._cut else None

    def cut_now(self, direction: Direction) -> None:
        self.cut(reset=self._cut[direction][1])

    async def run(self) -> None:
        """Pass bytes until both directions have ended or the link is cut."""
        working = [asyncio.create_task(work) for pipe in self._pipes for work in (pipe.read(), pipe.write())]
        done = asyncio.gather(*working)
        try:
            await asyncio.wait({done, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if done.done() and not done.cancelled() and done.exception() is not None:
                for writer in self._writers:
                    _reset(writer)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(done, return_exceptions=True)
            for writer in self._writers:
                writer.close()


class _Pipe:
    """One direction of a link."""

    def __init__(
        self, link: Link, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._link = link
        self._direction = direction
        self._reader = reader
        self._writer = writer
        self._random = random.Random(f"{link.network.seed} {link.number} {direction}")
        self._in_transit: deque[tuple[float, bytes]] = deque()
        """Pieces with the times at which they are due; an empty piece is the end of the stream."""
        self._bytes = 0
        self._changed = asyncio.Event()
        self._free_at = 0.0
        """When the earlier bytes have left, at the rate of the network."""

    @property
    def _conditions(self) -> Conditions:
        return self._link.network.conditions[self._direction]

    @property
    def _swallowed(self) -> bool:
        return self._direction in self._link.swallowing

    async def read(self) -> None:
        loop, due, piece = asyncio.get_running_loop(), 0.0, b"?"
        while piece:
            piece = await self._reader.read(min(READ_BYTES, self._conditions.buffer))
            conditions = self._conditions
            late = conditions.jitter * self._random.random() if conditions.jitter else 0.0
            due = max(due, loop.time() + conditions.delay + late)
            self._in_transit.append((due, piece))
            self._bytes += len(piece)
            self._changed.set()
            while self._bytes >= self._conditions.buffer:
                await self._change()

    async def write(self) -> None:
        data = b"?"
        while data:
            while not self._in_transit:
                await self._change()
            await _until(self._in_transit[0][0])
            if self._conditions.merge and self._in_transit[0][1]:
                await asyncio.sleep(self._conditions.merge)
            data = self._due()
            await self._pass(data)
            self._bytes -= len(data)
            self._changed.set()
        await self._link.network.flow()
        if self._swallowed:
            await asyncio.get_running_loop().create_future()  # the end does not arrive either
        if self._writer.can_write_eof():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    def _due(self) -> bytes:
        """The due bytes as one piece; empty at the end of the stream."""
        now, parts = asyncio.get_running_loop().time(), []
        while self._in_transit and self._in_transit[0][0] <= now and self._in_transit[0][1]:
            parts.append(self._in_transit.popleft()[1])
        return b"".join(parts)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _pass(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            await self._link.network.flow()
            if self._swallowed:
                return
            piece = data[at : at + self._size(len(data) - at)]
            until_cut = self._link.until_cut(self._direction)
            if until_cut is not None:
                piece = piece[:until_cut]
            at += len(piece)
            await self._throttle(len(piece))
            self._writer.write(piece)
            await self._writer.drain()
            self._link.passed[self._direction] += len(piece)
            if until_cut is not None and len(piece) == until_cut:
                await _turns()
                self._link.cut_now(self._direction)
                return
            if at < len(data):
                await _turns()

    def _size(self, most: int) -> int:
        split, rate = self._conditions.split, self._conditions.rate
        if rate:
            most = min(most, max(1, int(rate / 50)))
        if split:
            most = min(most, self._random.randint(1, split) if self._conditions.ragged else split)
        return most

    async def _throttle(self, size: int) -> None:
        rate = self._conditions.rate
        if rate:
            now = asyncio.get_running_loop().time()
            # A late wake-up on a busy machine is made up for, so that it does not slow the network down.
            self._free_at = max(self._free_at, now - BURST_S) + size / rate
            await _until(self._free_at)


async def _until(due: float) -> None:
    wait = due - asyncio.get_running_loop().time()
    if wait > 0:
        await asyncio.sleep(wait)


async def _turns() -> None:
    """Let a peer in the same event loop read the written bytes."""
    for _ in range(3):
        await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close by RST instead of FIN."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


@asynccontextmanager
async def network(
    target: str, up: Conditions = PERFECT, down: Conditions = PERFECT, *, seed: int = 0
) -> AsyncIterator[Network]:
    """A running network to a server; see `Network`."""
    proxy = Network(target, up, down, seed=seed)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
