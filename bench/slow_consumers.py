"""`python -m bench.slow_consumers`: the cost of connections that never read, for the server and for other members.

Members of one room receive messages at a steady rate: first alone, then beside connections of other members that
never read, then alone again. The report has the growth of the server's process, the members' latency with and without
slow connections, how many slow connections were closed, and whether one of them could resume by its cursor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cpu import cores, on_core
from bench.generator.engine import CACHE
from bench.servers import Server, Tidings, World, room_id

SAMPLE_S = 0.1
WINDOW_S = 5
DEADLINE_S = 60.0
CLOSED_S = 15.0
"""A slow connection is closed by then after the last message."""
REQUEST = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
IN_FLIGHT = 512
"""The most messages that wait for their answers: half of what the server allows a connection."""
STAMP = 20
"""Digits at the head of a content: the time at which it was due, in ns."""


@dataclass(frozen=True, slots=True)
class Plan:
    slow: int = 100
    """Connections that never read."""
    members: int = 10
    """Connections that read; one more sends."""
    rate: float = 500.0
    """Messages a second."""
    size: int = 2048
    """Characters of a message's content."""
    seconds: float = 60.0
    """Length of the phase with slow connections."""
    without: float = 60.0
    """Seconds of the phases before and after it."""
    receive_buffer: int = 0
    """Bytes of the slow connections' kernel buffers, as setsockopt takes them; 0: the kernel's default."""


@dataclass(slots=True)
class Phase:
    """The result of one phase: latencies in ms, from the time at which a message was due."""

    members: list[list[float]]
    """The latencies of each member, in the order of the messages."""
    growth: int
    """The growth of the process at its peak, in bytes."""

    @property
    def latencies(self) -> list[float]:
        return [latency for member in self.members for latency in member]

    def quantile(self, share: float) -> float:
        return quantile(self.latencies, share)

    def by_window(self, messages: int, share: float) -> list[float]:
        """The quantile of each run of so many messages."""
        starts = range(0, max(map(len, self.members)), messages)
        return [
            quantile([latency for member in self.members for latency in member[at : at + messages]], share)
            for at in starts
        ]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Result:
    before: Phase
    during: Phase
    after: Phase
    missed: range
    """The seqs that were sent after the slow connections had opened."""
    closed_after: list[float] = field(default_factory=list)
    """Seconds from the first message until each slow connection was closed."""
    resumed: list[int] = field(default_factory=list)
    """The seqs that one of them received when it had reconnected."""

    @property
    def p99_ratio(self) -> float:
        """The members' p99 with slow connections, over the p99 without."""
        without = statistics.mean(phase.quantile(0.99) for phase in (self.before, self.after))
        return self.during.quantile(0.99) / without


def masked(text: str) -> bytes:
    """A client's frame; its mask is zero."""
    data = text.encode()
    size = len(data)
    head = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + head + bytes(4) + data


class Frames:
    """Splits the bytes that a server sends into the texts of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        buffer, at, texts = self._buffer, 0, []
        while len(buffer) - at >= 2:
            start, size = at + 2, buffer[at + 1]
            if size > 125:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
            if len(buffer) < start + size:
                break
            if buffer[at] == 0x81:
                texts.append(bytes(buffer[start : start + size]))
            at = start + size
        del buffer[:at]
        return texts


class Member(asyncio.Protocol):
    """A connection that reads. `latencies` has those of the messages since it was last cleared."""

    def __init__(self, auth: str) -> None:
        self._auth = auth
        self._head = b""
        self._frames: Frames | None = None
        self.ready = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.received = 0
        self.seqs: list[int] | None = None
        """The received seqs; None: they are not recorded."""
        self.refused = 0
        self.turns = asyncio.Semaphore(IN_FLIGHT)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if self._frames is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._frames = Frames()
            self.send("40" + self._auth)
        for text in self._frames.feed(data):
            if text.startswith(b'42["message",'):
                self._message(text)
            elif text == b"2":
                self.send("3")
            elif text.startswith(b'42["ready",'):
                self.ready.set_result(None)
            elif text.startswith(b"43"):
                self.turns.release()
                self.refused += b'"ok":true' not in text[:40]

    def _message(self, text: bytes) -> None:
        self.received += 1
        at = text.index(b'"content":"') + 11
        self.latencies.append((time.monotonic_ns() - int(text[at : at + STAMP])) / 1e6)
        if self.seqs is not None:
            self.seqs.append(json.loads(text[2:])[1]["seq"])

    def send(self, text: str) -> None:
        self.transport.write(masked(text))

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("closed before it was ready"))


@asynccontextmanager
async def member(port: int, auth: str, *, seqs: bool = False) -> AsyncIterator[Member]:
    opened = Member(auth)
    if seqs:
        opened.seqs = []
    await asyncio.get_running_loop().create_connection(lambda: opened, "127.0.0.1", port)
    try:
        await asyncio.wait_for(opened.ready, DEADLINE_S)
        yield opened
    finally:
        opened.transport.close()


def slow_connection(port: int, auth: str, receive_buffer: int) -> socket.socket:
    """A connection that never reads after `ready`."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(DEADLINE_S)
    connection.connect(("127.0.0.1", port))
    connection.sendall(REQUEST + masked("40" + auth))
    received = b""
    while b'42["ready",' not in received:
        data = connection.recv(65_536)
        if not data:
            raise ConnectionError("closed before it was ready")
        received += data
    return connection


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Closings:
    """Records when connections are closed, without reading from them."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._poll = select.poll()
        for connection in sockets:
            self._poll.register(connection, 0)  # errors and hang-ups are always reported
        self.after: list[float] = []
        self._began = time.monotonic()

    def poll(self) -> None:
        for descriptor, _ in self._poll.poll(0):
            self._poll.unregister(descriptor)
            self.after.append(time.monotonic() - self._began)


async def phase(
    plan: Plan,
    seconds: float,
    pid: int,
    sender: Member,
    members: Sequence[Member],
    closings: Closings | None = None,
) -> Phase:
    """Send at the rate, and wait until every member has every message."""
    for member in members:
        member.latencies.clear()
    base = peak = resident(pid)
    number = int(plan.rate * seconds)
    expected = [member.received + number for member in members]
    padding = "x" * (plan.size - STAMP)
    began = time.monotonic()
    sampled = began
    for n in range(number):
        due = began + n / plan.rate
        now = time.monotonic()
        if now < due:
            await asyncio.sleep(due - now)
        await sender.turns.acquire()
        content = f"{int(due * 1e9):0{STAMP}}{padding}"
        sender.send(f'42{n}["message",{{"room_id":"{room_id(0)}","content":"{content}"}}]')
        if now - sampled >= SAMPLE_S:
            sampled = now
            peak = max(peak, resident(pid))
            if closings is not None:
                closings.poll()
    async with asyncio.timeout(DEADLINE_S):
        while any(member.received < count for member, count in zip(members, expected, strict=True)):
            await asyncio.sleep(SAMPLE_S)
            peak = max(peak, resident(pid))
    if sender.refused:
        raise RuntimeError(f"{sender.refused} messages were refused")
    return Phase([list(member.latencies) for member in members], peak - base)


async def measure(plan: Plan, server: Server) -> Result:
    """Run the three phases. The room has a user for the sender, each member and each slow connection."""
    port, pid = server.port, server.pid
    sent_before = int(plan.rate * plan.without)
    first_slow = 1 + plan.members
    # The slow connections have the messages of the first phase, so nothing is replayed to them.
    cursors = {room_id(0): sent_before}
    async with all_of([member(port, server.auth(user)) for user in range(first_slow)]) as (sender, *readers):
        before = await phase(plan, plan.without, pid, sender, readers)
        with ExitStack() as stack:
            slow = []
            for user in range(first_slow, first_slow + plan.slow):
                auth = server.auth(user, cursors=cursors)
                opened = await asyncio.to_thread(slow_connection, port, auth, plan.receive_buffer)
                slow.append(stack.enter_context(opened))
            closings = Closings(slow)
            during = await phase(plan, plan.seconds, pid, sender, readers, closings)
            deadline = time.monotonic() + CLOSED_S
            while len(closings.after) < plan.slow and time.monotonic() < deadline:
                await asyncio.sleep(SAMPLE_S)
                closings.poll()
        after = await phase(plan, plan.without, pid, sender, readers)
        async with member(port, server.auth(first_slow, cursors=cursors), seqs=True) as resumed_member:
            resumed = list(resumed_member.seqs or ())
    missed = range(sent_before + 1, 2 * sent_before + int(plan.rate * plan.seconds) + 1)
    return Result(before, during, after, missed, closings.after, resumed)


@asynccontextmanager
async def all_of(managers: Sequence[Any]) -> AsyncIterator[list[Member]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(manager) for manager in managers]


def world(plan: Plan) -> World:
    return World(rooms=[list(range(1 + plan.members + plan.slow))])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_consumers", description=__doc__)
    plan = Plan()
    parser.add_argument("--slow", type=int, default=plan.slow, help="connections that never read")
    parser.add_argument("--members", type=int, default=plan.members, help="connections that read")
    parser.add_argument("--rate", type=float, default=plan.rate, help="messages a second")
    parser.add_argument("--size", type=int, default=plan.size, help="characters of a message")
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="with them (default: 60)")
    parser.add_argument("--without", type=float, default=plan.without, help="seconds before, and after (default: 60)")
    plan = Plan(**vars(parser.parse_args(argv)))
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slow-", dir=CACHE) as directory:
        server = Tidings(world(plan), Path(directory))
        server.start()
        try:
            with on_core(cores()[1]):
                result = asyncio.run(measure(plan, server))
        finally:
            server.stop()
    for name, measured in (("without", result.before), ("with", result.during), ("without", result.after)):
        print(
            f"{name:8} p50 {measured.quantile(0.5):6.2f} ms   p99 {measured.quantile(0.99):6.2f} ms   "
            f"the process grew by {measured.growth / 1e6:6.1f} MB"
        )
        windows = " ".join(f"{p99:.1f}" for p99 in measured.by_window(int(plan.rate * WINDOW_S), 0.99))
        print(f"         p99 of every {WINDOW_S} s: {windows}")
    closed, missed = result.closed_after, result.missed
    print(f"p99 with slow connections over p99 without: {result.p99_ratio:.2f}")
    if closed:
        print(
            f"{len(closed)} of {plan.slow} closed, {min(closed):.1f} to {max(closed):.1f} s after the first message"
        )
    print(f"one reconnected and received {len(result.resumed)} of the {len(missed)} messages that it had missed")
    passed = (
        result.during.growth <= 150e6
        and result.p99_ratio <= 1.2
        and len(closed) == plan.slow
        and result.resumed == list(missed)
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
