"""Messages that stream, beside a Node server that emits each piece and stores the end: `python -m bench.streams`.

Ten authors write into rooms of ten, a message in each, some pieces a second; each of ninety readers is in a tenth
of the rooms. Both servers get the same text at the same pace, one after the other, each on the servers' core.
Tidings stores the text within a second, joins pieces for 40 ms, and checks the author; Node stores the end, and
forgets the text if it dies before. At the end each server stores every message: Tidings by `finish`, Node by
`message`. An author may not have more than some hundred pieces unanswered, so a server that cannot keep the pace
fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu import cores, cpu_seconds, on_core
from bench.generator.engine import CACHE
from bench.servers import Durable, Server, Tidings, World, room_id

AUTHORS, READERS = 10, 90
TICK_S = 0.05
PIECE = "lorem "
WITHIN_S = 40.0


@dataclass
class Result:
    pieces: int
    seconds: float
    cpu: float
    sent_to_readers: int
    """Bytes."""


class Wire(asyncio.Protocol):
    """A Socket.IO client on a WebSocket that only counts what it gets."""

    def __init__(self, port: int, auth: str, *needles: bytes) -> None:
        self._port, self._auth = port, auth
        self.counts = dict.fromkeys(needles, 0)
        self.bytes = 0
        self.messages: list[Any] = []
        self._tail = b""
        self._longest = max(map(len, needles))
        self._changed = asyncio.Event()
        self._begun = False

    async def connect(self) -> Wire:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        self._transport = transport
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        transport.write(
            f"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        await self.until(b'"pingTimeout"', 1)
        self.send([f"40{self._auth}"])
        await self.until(b'"ready"', 1)
        return self

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        joined = self._tail + data
        for needle in self.counts:
            # A needle in the tail alone was counted before.
            self.counts[needle] += joined.count(needle) - self._tail.count(needle)
        self._tail = joined[-(self._longest - 1) :]
        self._changed.set()

    async def until(self, needle: bytes, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.counts[needle] < count:
                self._changed.clear()
                await self._changed.wait()

    def send(self, packets: Sequence[str]) -> None:
        self._transport.write(b"".join(map(_frame, packets)))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._transport.close()


def _frame(packet: str) -> bytes:
    """A masked text frame; with a mask of zeros the payload stands as it is."""
    payload = packet.encode()
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


async def measure(server: Server, streams: int, pace: int, seconds: float) -> Result:
    """Write the streams at a pace, in pieces a second for each."""
    needles = b'"ready"', b'"pingTimeout"', b'"ok":true', b'"message_append"', b'"message_finished"', b'["message",'
    authors = [await Wire(server.port, server.auth(user), *needles).connect() for user in range(AUTHORS)]
    readers = [
        await Wire(server.port, server.auth(user), *needles).connect() for user in range(AUTHORS, AUTHORS + READERS)
    ]
    ids = await _open(server, streams)
    read, cpu, began = sum(reader.bytes for reader in readers), cpu_seconds(server.pid), time.perf_counter()
    ticks = round(seconds / TICK_S)
    each = round(pace * TICK_S)
    for tick in range(ticks):
        packets: list[list[str]] = [[] for _ in authors]
        for number in range(tick * each, (tick + 1) * each):
            for room, message_id in enumerate(ids):
                fields = {"message_id": message_id, "offset": number * len(PIECE), "text": PIECE}
                if isinstance(server, Durable):
                    fields["room_id"] = room_id(room)
                packets[room % AUTHORS].append(f"42{number * len(ids) + room}{_json(['append', fields])}")
        for author, own in zip(authors, packets, strict=True):
            author.send(own)
        await asyncio.sleep(max(0.0, began + (tick + 1) * TICK_S - time.perf_counter()))
    pieces = ticks * each * streams
    for author in authors:
        await author.until(b'"ok":true', pieces // AUTHORS)
    elapsed = time.perf_counter() - began
    ends = [reader.counts[b'"message_finished"'] + reader.counts[b'["message",'] for reader in readers]
    for room, message_id in enumerate(ids):
        if isinstance(server, Durable):
            whole = {"room_id": room_id(room), "content": PIECE * (pieces // streams)}
            authors[room % AUTHORS].send([f"42{room}{_json(['message', whole])}"])
        else:
            authors[room % AUTHORS].send([f"42{room}{_json(['finish', {'message_id': message_id}])}"])
    for author in authors:
        await author.until(b'"ok":true', (pieces + streams) // AUTHORS)
    for reader, before in zip(readers, ends, strict=True):
        async with asyncio.timeout(WITHIN_S):
            while True:
                now = reader.counts[b'"message_finished"'] + reader.counts[b'["message",']
                if now - before >= streams * 9 // READERS:
                    break
                await asyncio.sleep(TICK_S)
    result = Result(pieces, elapsed, cpu_seconds(server.pid) - cpu, sum(reader.bytes for reader in readers) - read)
    for wire in (*authors, *readers):
        wire.close()
    return result


async def _open(server: Server, streams: int) -> list[str]:
    """Open a message in each room; Node's has no id before its end."""
    if isinstance(server, Durable):
        return [f"message{room}" for room in range(streams)]
    import httpx

    keys = [{"Authorization": f"Bearer {json.loads(server.auth(user))['token']}"} for user in range(AUTHORS)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as http:
        ids = []
        for room in range(streams):
            answer = await http.post(
                "/api/messages",
                json={"room_id": room_id(room), "content": "", "stream": True},
                headers=keys[room % AUTHORS],
            )
            ids.append(answer.raise_for_status().json()["id"])
        return ids


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def world(streams: int) -> World:
    """Rooms of ten: an author, and nine readers, who take turns."""
    readers = [[AUTHORS + (9 * room + n) % READERS for n in range(9)] for room in range(streams)]
    return World([[room % AUTHORS, *of_room] for room, of_room in enumerate(readers)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.streams", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--pace", type=int, default=20, help="pieces a second, of each stream")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    CACHE.mkdir(parents=True, exist_ok=True)
    core_of_servers, other_core = cores()
    os.sched_setaffinity(0, {other_core, core_of_servers})
    with tempfile.TemporaryDirectory(prefix="streams-", dir=CACHE, ignore_cleanup_errors=True) as name:
        for number in range(options.rounds):
            for kind in (Tidings, Durable):
                server = kind(world(options.streams), Path(name) / f"{kind.__name__}-{number}")
                try:
                    with on_core(core_of_servers):
                        server.start()
                    with on_core(other_core):
                        found = asyncio.run(measure(server, options.streams, options.pace, options.seconds))
                finally:
                    server.stop()
                whole = len(PIECE) * found.pieces // options.streams
                all_texts = 9 * options.streams * sum(range(len(PIECE), whole + 1, len(PIECE)))
                print(
                    f"{server.name}: {found.pieces / found.seconds:,.0f} pieces/s, CPU"
                    f" {1e6 * found.cpu / found.pieces:.1f} us a piece,"
                    f" {1e6 * found.cpu / (9 * found.pieces):.2f} us a delivery,"
                    f" {found.sent_to_readers / (9 * found.pieces):.0f} bytes a delivery,"
                    f" {found.sent_to_readers / all_texts:.2f} of sending the whole text each time;"
                    f" load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
