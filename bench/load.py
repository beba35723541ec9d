"""The harness's end of a generator process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from bench.cpu import cores, on_core
from bench.process import ROOT, readable
from bench.servers import Server, room_id

CONTENT = 100
"""Characters of a message's content."""
SAMPLED = 8
"""Connections whose messages are parsed, for latency and order."""
ANSWER_S = 240.0


class LoadFailed(Exception):
    """The generator saw a fault that makes the measurement worthless; the message names it."""


def message_to(room: int) -> list[Any]:
    """A slot that sends messages to a room."""
    return [room, f'["message",{{"room_id":"{room_id(room)}","content":"', '"}]', CONTENT]


def event_to(room: int) -> list[Any]:
    """A slot that publishes events to a room; the generator counts them as messages."""
    before = f'["publish",{{"room_id":"{room_id(room)}","event":"published","data":{{"content":"'
    return [room, before, '"}}]', CONTENT]


def history_of(room: int, before: int, limit: int = 50) -> list[Any]:
    """A slot that reads a page of a room."""
    return [-1, f'["history",{{"room_id":"{room_id(room)}","before":{before},"limit":{limit}}}]', "", 0]


def sender(connection: int, window: int, slots: Sequence[list[Any]]) -> dict[str, Any]:
    return {"connection": connection, "window": window, "slots": list(slots)}


def sampled(users: int) -> list[int]:
    """The connections whose messages are parsed: evenly spread, and on both of two nodes if users take turns."""
    step = max(1, users // SAMPLED) | 1
    return list(range(0, users, step))[:SAMPLED]


class Load:
    """A generator process on the other core, with a connection for each user of the server's world, to their node."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._opened = 0
        with on_core(cores()[1]):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.generator"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )

    def open(
        self,
        *,
        users: int | None = None,
        chosen: Sequence[int] | None = None,
        at_once: int = 32,
        cursors: bool = False,
    ) -> dict[str, Any]:
        """Connect every user, the first `users`, or the `chosen` ones; connections are numbered in this order.

        `cursors`: each brings cursors from before the first entry of its rooms.
        """
        server = self.server
        online = list(range(server.world.users if users is None else users)) if chosen is None else list(chosen)
        self._opened = len(online)
        number = {user: at for at, user in enumerate(online)}
        memberships = server.world.rooms_of()
        brought = [
            {"cursors": dict.fromkeys(map(room_id, memberships[user]), 0)} if cursors else {} for user in online
        ]
        return self._ask(
            "open",
            ports=[server.port_of(user) for user in online],
            auths=[server.auth(user, **more) for user, more in zip(online, brought, strict=True)],
            rooms=[[number[user] for user in room if user in number] for room in server.world.rooms],
            at_once=at_once,
            timeout=180.0,
        )

    def begin(self, every: float = 0.0) -> None:
        """Let the senders send until `end`, whatever else is measured meanwhile; `every`: as in `measure`."""
        self._ask("begin", every=every)

    def end(self) -> dict[str, Any]:
        """Stop them; returns `acks`, and in ms the latencies `ack_50`, `ack_99` and `ack_100` (the longest), and
        `arrival_50` and so on."""
        return self._ask("end")

    def counters(self) -> dict[str, int]:
        """The generator's totals since its connections were opened."""
        return self._ask("counters")

    def senders(self, senders: Sequence[dict[str, Any]]) -> None:
        self._ask("senders", senders=list(senders), sampled=sampled(self._opened))

    def measure(
        self, warmup: float, seconds: float, only: Sequence[int] | None = None, every: float = 0.0
    ) -> dict[str, Any]:
        """Let the senders (or only some) send; returns the counts, the CPU seconds and the latencies.

        `every`: at intervals of so many seconds, instead of at each acknowledgement.
        """
        server = self.server
        result = self._ask(
            "measure",
            pids=server.pids,
            beside=server.pids_beside,
            warmup=warmup,
            seconds=seconds,
            only=only,
            every=every,
        )
        if not result["acks"]:
            raise LoadFailed("nothing was acknowledged: measure for longer")
        if not all(result["cpus"]):
            raise LoadFailed(f"{self.server.name} used no CPU: another process has answered")
        return result

    def reopen(self, auth: str, expected: int) -> dict[str, Any]:
        """Open one more connection, receive `expected` messages, and close it."""
        server = self.server
        return self._ask("reopen", port=server.port, auth=auth, expected=expected, pid=server.pid, timeout=60.0)

    def idle(self, seconds: float) -> dict[str, Any]:
        """Let nobody send; returns the CPU seconds of each node."""
        return self._ask("idle", seconds=seconds, pids=self.server.pids)

    def close(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.kill()
        process.wait()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline() if readable(self._process.stdout, ANSWER_S) else b""
        if not line:
            raise LoadFailed(f"no answer from the generator; the server's log:\n{self.server.logged()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LoadFailed(f"{self.server.name}: {answer['error']}\n{self.server.logged()}")
        return answer
