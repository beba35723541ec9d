"""Many cheap clients of Socket.IO over WebSocket in one process, each with cursors and a check of its entries.

`python -m tests.campaign.support.crowd` reads commands as lines of JSON from standard input, and answers each with a
line. A client reads only the room and the seq of each entry. It reconnects after a refusal or close, with the delays
of socket.io-client.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

_UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_MESSAGE = re.compile(rb'"room_id":"([^"]+)","topic_name":(?:"[^"]*"|null),"seq":(\d+)')
_EVENT = re.compile(rb'42\["(\w+)"')
DELAY_S, MOST_DELAY_S = 1.0, 5.0


def _frame(text: bytes) -> bytes:
    """A text frame with a mask of zero, which leaves the payload unchanged."""
    size = len(text)
    if size < 126:
        return bytes((0x81, 0x80 | size, 0, 0, 0, 0)) + text
    return b"\x81\xfe" + size.to_bytes(2, "big") + b"\0\0\0\0" + text


class Tally:
    """Counts of the outcomes of the clients of this process."""

    def __init__(self) -> None:
        self.connects = 0
        self.refused: Counter[str] = Counter()
        """Status of the handshake, code of the `connect_error`, or kind of the error of the socket."""
        self.closed: Counter[str] = Counter()
        """Reasons of `closing`, or "lost"."""
        self.events: Counter[str] = Counter()
        self.messages = 0
        self.wrong: list[str] = []
        """Gaps, repeats, resets."""

    def told(self) -> dict[str, Any]:
        found = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        return {**found, "wrong": self.wrong[:5], "wrongs": len(self.wrong)}


class Member(asyncio.Protocol):
    """One client."""

    def __init__(self, crowd: Crowd, token: str, positions: dict[str, int]) -> None:
        self._crowd = crowd
        self._token = token
        self.positions = positions
        self.ready_at = 0.0
        """When the current connection was ready; 0 if it is not."""
        self.began_at = 0.0
        """When its first connection attempt began."""
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._upgraded = False
        self._delay = DELAY_S
        self._leaving = False

    def come(self) -> None:
        self._leaving = False
        self.began_at = self.began_at or time.monotonic()
        self._crowd.spawn(self._connect())

    def leave(self, *, cut: bool) -> None:
        """Stop reconnecting; with `cut`, abort the connection."""
        self._leaving = True
        self.began_at = self.ready_at = 0.0
        self._delay = DELAY_S
        if cut and self._transport is not None:
            self._transport.abort()

    async def _connect(self) -> None:
        self._crowd.tally.connects += 1
        self._rest, self._upgraded, self.ready_at = b"", False, 0.0
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._crowd.port)
        except OSError as error:
            self._crowd.tally.refused[type(error).__name__] += 1
            self._come_again()

    def _come_again(self) -> None:
        if not self._leaving:
            delay = self._delay * random.uniform(0.5, 1.5)
            self._delay = min(MOST_DELAY_S, 2 * self._delay)
            asyncio.get_running_loop().call_later(delay, self.come)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_UPGRADE)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self.ready_at or self._upgraded:
            self._crowd.tally.closed["lost"] += not self._leaving
        self.ready_at = 0.0
        self._come_again()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = 0
        if not self._upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            status = data[9:12].decode()
            if status != "101":
                self._crowd.tally.refused[status] += 1
                assert self._transport is not None
                self._transport.abort()
                return
            self._upgraded, at = True, end + 4
        size = len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if size < start + length:
                break
            if data[at] == 0x81:
                self._packet(data[start : start + length])
            at = start + length
        self._rest = data[at:]

    def _packet(self, packet: bytes) -> None:
        if packet.startswith(b'42["message"'):
            self._message(packet)
        elif packet == b"2":
            self._send(b"3")
        elif packet.startswith(b'42["ready"'):
            self.ready_at, self._delay = time.monotonic(), DELAY_S
            reset = json.loads(packet[2:])[1]["reset"]
            if reset:
                self._crowd.tally.wrong.append(f"reset {reset}")
            self._crowd.changed()
        elif packet.startswith(b"0{"):
            auth = {"token": self._token, "device": "phone", "cursors": self.positions}
            self._send(b"40" + json.dumps(auth, separators=(",", ":")).encode())
        elif packet.startswith(b"44"):
            self._crowd.tally.refused[json.loads(packet[2:])["data"]["code"]] += 1
            assert self._transport is not None
            self._transport.abort()
        elif packet.startswith(b'42["closing"'):
            self._crowd.tally.closed[json.loads(packet[2:])[1]["reason"]] += 1
        elif found := _EVENT.match(packet):
            self._crowd.tally.events[found[1].decode()] += 1

    def _message(self, packet: bytes) -> None:
        found = _MESSAGE.search(packet)
        assert found is not None, packet
        room_id, seq = found[1].decode(), int(found[2])
        tally, before = self._crowd.tally, self.positions.get(room_id, 0)
        tally.messages += 1
        if seq != before + 1:
            tally.wrong.append(f"{seq} after {before}")
        self.positions[room_id] = max(seq, before)

    def _send(self, text: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_frame(text))


class Crowd:
    def __init__(self) -> None:
        self.port = 0
        self.members: list[Member] = []
        self.tally = Tally()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def changed(self) -> None:
        self._changed.set()

    async def _until(self, condition: Callable[[], bool], within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def do_open(self, port: int, members: list[tuple[str, dict[str, int]]], at_once: int) -> dict[str, Any]:
        """Connect the clients, `at_once` at a time; answers when all are ready."""
        self.port = port
        self.members = [Member(self, token, positions) for token, positions in members]
        for first in range(0, len(self.members), at_once):
            some = self.members[first : first + at_once]
            for member in some:
                member.come()
            if not await self._until(lambda some=some: all(member.ready_at for member in some), 120):  # type: ignore[misc]
                raise AssertionError("the crowd could not connect at first")
        return {}

    async def do_leave(self, *, cut: bool) -> dict[str, Any]:
        """Let all clients stop reconnecting; with `cut`, abort every connection."""
        for member in self.members:
            member.leave(cut=cut)
        self.tally = Tally()
        return {}

    async def do_come(self, at: float, spread: float, within: float) -> dict[str, Any]:
        """Reconnect all clients from a time (of `time.monotonic`) on, evenly over `spread` seconds.

        Answers when all are ready, with the seconds from that time until each was.
        """
        loop, cpu = asyncio.get_running_loop(), time.process_time()
        for number, member in enumerate(self.members):
            loop.call_later(max(0.0, at - time.monotonic() + spread * number / len(self.members)), member.come)
        whole = await self._until(lambda: all(member.ready_at for member in self.members), within)
        return {
            "whole": whole,
            "seconds": [member.ready_at - at for member in self.members if member.ready_at],
            "own": [member.ready_at - member.began_at for member in self.members if member.ready_at],
            "cpu": time.process_time() - cpu,
            **self.tally.told(),
        }

    async def do_settle(self, heads: dict[str, int], within: float) -> dict[str, Any]:
        """Wait until each client has all entries up to the heads of its rooms; answers with the number of others."""
        until = time.monotonic() + within

        def late() -> int:
            return sum(
                any(seq < heads[room_id] for room_id, seq in member.positions.items()) for member in self.members
            )

        while late() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        beyond = sum(
            any(seq > heads[room_id] for room_id, seq in member.positions.items()) for member in self.members
        )
        return {"late": late(), "beyond": beyond, **self.tally.told()}


async def main() -> None:
    crowd, loop = Crowd(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        answer = await getattr(crowd, f"do_{request.pop('command')}")(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
