"""A turn ends by the processor time of its own input, so that a burst is cut only if it is long itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from tests.delivery.gate import Gate
from tests.gateways.raw import DEADLINE_S, dumps, entered
from tests.support.node import running_node
from tidings.transport.turn import TURN_S, TaskTurn, Turn

BURST = 8
OTHER_PROCESS = f"""
import sys, time
sys.stdin.readline()
until = time.process_time() + {2 * TURN_S}
while time.process_time() < until:
    pass
print(flush=True)
"""


def compute(seconds: float) -> None:
    """Use processor time on this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("kind", [Turn, TaskTurn])
async def test_a_turn_ends_after_its_processor_time(kind: type[Turn]) -> None:
    turn = kind()
    compute(TURN_S / 2)
    assert not turn.is_over()
    compute(TURN_S)
    assert turn.is_over()


async def test_another_process_on_the_core_does_not_end_a_turn() -> None:
    command = [sys.executable, "-c", OTHER_PROCESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as other:  # noqa: ASYNC220
        assert other.stdin is not None
        assert other.stdout is not None
        turn = Turn()
        other.stdin.write(b"\n")
        assert other.stdout.readline() == b"\n"
        assert not turn.is_over()


async def test_the_turn_of_a_task_begins_anew_when_it_continues() -> None:
    loop, resumed = asyncio.get_running_loop(), asyncio.Event()

    def others() -> None:
        compute(2 * TURN_S)
        resumed.set()

    turn = TaskTurn()
    loop.call_soon(others)
    await resumed.wait()
    assert not turn.is_over()
    compute(2 * TURN_S)
    assert turn.is_over()
    await asyncio.sleep(0)
    assert not turn.is_over()


async def test_a_burst_is_one_batch_although_others_held_the_loop_while_its_first_message_waited(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_node(sqlite_url, tmp_path) as node, entered(node.url, await node.register("omar")) as omar:
        await omar.ask("create", {"topic_name": "noticias"})
        batches: list[int] = []
        monkeypatch.setattr(node.node.metrics, "committed", lambda changes, _: batches.append(changes))
        gate = Gate(node.node.database, monkeypatch, "read")
        gate.hold(1)
        message = dumps(["message", {"topic_name": "noticias", "content": "hola"}])
        frames = [Frame(Opcode.TEXT, f"42{number}{message}".encode()) for number in range(100, 100 + BURST)]
        omar.socket.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
        await asyncio.wait_for(gate.held.wait(), DEADLINE_S)
        compute(2 * TURN_S)
        gate.release()
        await omar.until(f"43{100 + BURST - 1}[")
        assert [changes for changes in batches if changes] == [BURST]  # others wrote only cursors
