"""A load balancer on loopback without sticky sessions: each request goes to the next node.

The requests of an Engine.IO session go around the nodes, from the one after its own; its WebSocket goes to that one.

It reads HTTP/1.1 and keeps connections alive on both sides, so requests of many clients share few connections to a
node. A WebSocket gets a connection of its own. A node that refuses connections is passed over. `X-Forwarded-For` is
the client's address, whatever the client sent.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Target = tuple[str, int]
LIMIT = 1024 * 1024
"""Bytes of the longest head."""
REMEMBERED = 100_000
"""Requests whose targets are kept."""


class Balancer:
    def __init__(self, targets: Sequence[str], port: int = 0) -> None:
        """`targets`: the URLs of the nodes. `port`: to listen on; 0: any."""
        self._port = port
        self._targets = list(map(_address, targets))
        self._turns = itertools.count()
        self._owners: dict[str, int] = {}
        """Which node has a session, by its id."""
        self._turns_of: dict[str, Iterator[int]] = {}
        """By the id of a session."""
        self._closed: set[str] = set()
        """The ids of sessions that an end of them has closed. The client may still have a poll under way."""
        self._idle: defaultdict[Target, list[Ends]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        self.refused: list[str] = []
        """Requests that a node answered with 400 or above, with their status; not those of closed sessions."""
        self.served: deque[tuple[str, int]] = deque(maxlen=REMEMBERED)
        """The first line of each request, and the port of the node that it went to."""
        self.opened = 0
        """Connections to nodes so far, without those of WebSockets."""
        self.upgraded = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=LIMIT)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        for ends in itertools.chain(*self._idle.values()):
            ends[1].close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            begin: bytes | None = b""
            while begin is not None:
                begin = await self._request((reader, writer), begin)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _request(self, client: Ends, begin: bytes) -> bytes | None:
        """Pass one request on. Returns the first byte of the next one, or None if there is none.

        `begin`: the first byte of this one, if it was read already.
        """
        head = begin + await client[0].readuntil(b"\r\n\r\n")
        line, headers = _parse(head)
        body = await client[0].readexactly(int(headers.get("content-length", 0)))
        upgrade = headers.get("upgrade", "").lower() == "websocket"
        head = _forwarded(head, client[1].get_extra_info("peername")[0])
        target = self._target(line, upgrade)
        self._note_close(line, body)
        if upgrade:
            await self._upgrade(client, target, line, head)
            return None
        node = self._reused(target)
        if node is None:
            target, node = await self._open(target)
            self.opened += 1
        self.served.append((line, target[1]))
        keep = False
        following = asyncio.create_task(client[0].read(1))
        try:
            node[1].write(head + body)
            answering = asyncio.create_task(self._answer(client, node, target, line))
            await asyncio.wait((answering, following), return_when=asyncio.FIRST_COMPLETED)
            if following.done() and not following.result():  # the client has gone in the middle of a poll
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                return None
            keep = await answering
        finally:
            following.cancel()
            await asyncio.wait((following,))
            if keep:
                self._idle[target].append(node)
            else:
                node[1].close()
        if headers.get("connection", "").lower() == "close":
            return None
        return b"" if following.cancelled() else following.result()

    def _target(self, line: str, upgrade: bool) -> Target:
        sid = _session(line)
        if sid not in self._owners:
            turn = next(self._turns)
        elif upgrade:
            turn = self._owners[sid] + 1
        else:
            turn = next(self._turns_of[sid])
        return self._targets[turn % len(self._targets)]

    def _note_session(self, target: Target, body: bytes) -> None:
        if found := re.match(rb'0\{"sid":"([\w-]+)"', body):
            sid, owner = found[1].decode(), self._targets.index(target)
            self._owners[sid], self._turns_of[sid] = owner, itertools.count(owner + 1)

    def _note_close(self, line: str, payload: bytes) -> None:
        """`payload`: packets of long polling, the last of which may be Engine.IO's CLOSE."""
        if payload.rsplit(b"\x1e", 1)[-1] == b"1":
            self._closed.add(_session(line))

    def _reused(self, target: Target) -> Ends | None:
        """A connection that the node has not closed."""
        while idle := self._idle[target]:
            node = idle.pop()
            if not node[0].at_eof():
                return node
            node[1].close()
        return None

    async def _open(self, target: Target) -> tuple[Target, Ends]:
        """A connection to that node, or to the next one that accepts connections."""
        first = self._targets.index(target)
        for target in self._targets[first:] + self._targets[:first]:
            with suppress(ConnectionRefusedError):
                return target, await asyncio.open_connection(*target, limit=LIMIT)
        raise ConnectionRefusedError("no node accepts connections")

    async def _answer(self, client: Ends, node: Ends, target: Target, line: str) -> bool:
        """Pass an answer back; returns whether the connection to the node stays open."""
        head = await node[0].readuntil(b"\r\n\r\n")
        status, headers = _parse(head)
        code = int(status.split()[1])
        body = b""
        if line.startswith("HEAD "):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            size = -1
            while size:
                size_line = await node[0].readuntil(b"\r\n")
                size = int(size_line, 16)
                body += size_line + await node[0].readexactly(size + 2)
        elif code not in (204, 304):
            body = await node[0].readexactly(int(headers.get("content-length", 0)))
        if code >= 400 and _session(line) not in self._closed:
            self.refused.append(f"{code} {line} {body[:100]!r}")
        self._note_session(target, body)
        self._note_close(line, body)
        client[1].write(head + body)
        await client[1].drain()
        return headers.get("connection", "").lower() != "close"

    async def _upgrade(self, client: Ends, target: Target, line: str, head: bytes) -> None:
        target, node = await self._open(target)
        self.served.append((line, target[1]))
        try:
            node[1].write(head)
            answer = await node[0].readuntil(b"\r\n\r\n")
            code = int(answer.split()[1])
            if code == 101:
                self.upgraded += 1
            else:
                self.refused.append(f"{code} {line}")
            client[1].write(answer)
            both = [asyncio.create_task(_copy(client[0], node[1])), asyncio.create_task(_copy(node[0], client[1]))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for copying in both:
                    copying.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        finally:
            node[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()


def _session(line: str) -> str:
    """The id of a request's Engine.IO session, or ""."""
    found = re.search(r"[?&]sid=([\w-]+)", line)
    return found[1] if found else ""


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    line, *rest = head.decode("latin-1").split("\r\n")
    pairs = (header.partition(":") for header in rest if header)
    return line, {name.lower(): value.strip() for name, _, value in pairs}


def _forwarded(head: bytes, address: str) -> bytes:
    """A head with the client's address in place of those that the client claims."""
    lines = head.split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith(b"x-forwarded-for:")]
    return b"\r\n".join([kept[0], b"X-Forwarded-For: %b" % address.encode(), *kept[1:]])


def _address(url: str) -> Target:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@asynccontextmanager
async def balanced(targets: Sequence[str], port: int = 0) -> AsyncIterator[Balancer]:
    """A running balancer over the nodes at these URLs."""
    balancer = Balancer(targets, port)
    await balancer.start()
    try:
        yield balancer
    finally:
        await balancer.stop()
