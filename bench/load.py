"""The harness's end of a generator process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from bench.cpu import cores, on_core
from bench.servers import ROOT, Server, readable, room_id

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


def history_of(room: int, before: int, limit: int = 50) -> list[Any]:
    """A slot that reads a page of a room."""
    return [-1, f'["history",{{"room_id":"{room_id(room)}","before":{before},"limit":{limit}}}]', "", 0]


def sender(connection: int, window: int, slots: Sequence[list[Any]]) -> dict[str, Any]:
    return {"connection": connection, "window": window, "slots": list(slots)}


class Load:
    """A generator process on the other core, with a connection for each user of the server's world."""

    def __init__(self, server: Server) -> None:
        self.server = server
        with on_core(cores()[1]):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.generator"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )

    def open(self, *, users: int | None = None, at_once: int = 32) -> dict[str, Any]:
        """Connect every user, or the first `users`."""
        server = self.server
        online = range(server.world.users if users is None else users)
        return self._ask(
            "open",
            port=server.port,
            auths=[server.auth(user) for user in online],
            rooms=[[user for user in room if user in online] for room in server.world.rooms],
            at_once=at_once,
            timeout=180.0,
        )

    def senders(self, senders: Sequence[dict[str, Any]]) -> None:
        users = self.server.world.users
        step = max(1, users // SAMPLED)
        self._ask("senders", senders=list(senders), sampled=list(range(0, users, step))[:SAMPLED])

    def measure(self, warmup: float, seconds: float, only: Sequence[int] | None = None) -> dict[str, Any]:
        """Let the senders (or only some) send; returns the counts, the CPU seconds and the latencies."""
        result = self._ask("measure", pid=self.server.pid, warmup=warmup, seconds=seconds, only=only)
        if not result["acks"]:
            raise LoadFailed("nothing was acknowledged: measure for longer")
        if not result["cpu"]:
            raise LoadFailed(f"{self.server.name} used no CPU: another process has answered")
        return result

    def reopen(self, auth: str, expected: int) -> dict[str, Any]:
        """Open one more connection, receive `expected` messages, and close it."""
        return self._ask("reopen", auth=auth, expected=expected, pid=self.server.pid, timeout=60.0)

    def idle(self, seconds: float) -> None:
        self._ask("idle", seconds=seconds)

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
