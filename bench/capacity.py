"""How much the generator can count: a blaster on the other core does nothing but write frames, as fast as it can.

It writes to each connection in turn a batch of messages as one buffer, as a server that delivers in batches does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import socket
import time
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from bench.cpu import cores
from bench.generator.engine import Engine
from bench.scenarios import Plan

CONNECTIONS = 500
FRAME_CHARACTERS = 420
"""About what a message of 100 characters is on the wire."""
UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def frame(text: str) -> bytes:
    """An unmasked text frame."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    if len(payload) < 65536:
        return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


def message(size: int) -> str:
    filled = json.dumps({"content": "x" * 100, "id": ""}, separators=(",", ":"))
    return f'42["message",{filled}]'.replace('"id":""', f'"id":"{"y" * max(0, size - 140)}"')


def _blast(listener: socket.socket, connections: int, batch: int, seconds: float, told: Connection) -> None:
    """Accept, upgrade, and write for so long; tells how many messages were written, and the CPU it took."""
    os.sched_setaffinity(0, {cores()[0]})
    accepted = []
    for _ in range(connections):
        client, _ = listener.accept()
        while b"\r\n\r\n" not in client.recv(4096):
            pass
        client.sendall(UPGRADED + frame('0{"sid":"x"}') + frame('40{"sid":"y"}') + frame('42["ready",{}]'))
        accepted.append(client)
    told.recv()
    buffer = frame(message(FRAME_CHARACTERS)) * batch
    written, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for client in accepted:
            client.sendall(buffer)
        written += batch * connections
    told.send((written, time.process_time()))
    told.recv()


def measure(connections: int, batch: int, seconds: float) -> dict[str, float]:
    """Count what is blasted for so long, to the last message."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    usable = os.sched_getaffinity(0)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        blaster = context.Process(target=_blast, args=(listener, connections, batch, seconds, theirs), daemon=True)
        blaster.start()
        os.sched_setaffinity(0, {cores()[1]})
        engine = Engine(listener.getsockname()[1])
        try:
            for _ in range(connections):
                engine.add("{}")
            engine.open()
            ours.send(True)
            own, began = time.process_time(), time.perf_counter()
            while not select.select([ours], [], [], 0)[0]:
                engine.run(0.05)
            elapsed, own = time.perf_counter() - began, time.process_time() - own
            written, blasting = ours.recv()
            for _ in range(200):
                if engine.counters.messages >= written:
                    break
                engine.run(0.01)
            counted = engine.counters.messages
            ours.send(True)
        finally:
            os.sched_setaffinity(0, usable)
            engine.close()
            blaster.join(10)
            blaster.kill()
    return {
        "written": written,
        "counted": counted,
        "rate": written / elapsed,
        "bytes": engine_bytes(written),
        "generator": own / elapsed,
        "blaster": blasting / elapsed,
    }


def engine_bytes(messages: int) -> int:
    return messages * len(frame(message(FRAME_CHARACTERS)))


def run(console: Console, plan: Plan) -> int:
    table = Table(title=f"{CONNECTIONS} connections, frames of {engine_bytes(1)} bytes", title_justify="left")
    for heading in ("batch", "messages/s", "written", "counted", "generator's core", "blaster's core"):
        table.add_column(heading, justify="right")
    exact = True
    for batch in (1, 4, 16, 64):
        made = measure(plan.scaled(CONNECTIONS, 10), batch, plan.seconds)
        exact = exact and made["written"] == made["counted"]
        table.add_row(
            str(batch),
            f"{made['rate']:,.0f}",
            f"{made['written']:,.0f}",
            f"{made['counted']:,.0f}",
            f"{made['generator']:.0%}",
            f"{made['blaster']:.0%}",
        )
    console.print(table)
    return 0 if exact else 1
