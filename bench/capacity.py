"""The most messages that the generator can count: a blaster on the other core writes frames as fast as it can.

Like a server that delivers in batches, it writes a batch of messages as one buffer to each connection in turn.
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
"""About the size of a message of 100 characters on the wire."""
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


def _blast(listener: socket.socket, connections: int, batch: int, seconds: float, control: Connection) -> None:
    """Accept, upgrade, and write for `seconds`; send the number of written messages and the CPU seconds."""
    os.sched_setaffinity(0, {cores()[0]})
    accepted = []
    for _ in range(connections):
        client, _ = listener.accept()
        while b"\r\n\r\n" not in client.recv(4096):
            pass
        client.sendall(UPGRADED + frame('0{"sid":"x"}') + frame('40{"sid":"y"}') + frame('42["ready",{}]'))
        accepted.append(client)
    control.recv()
    buffer = frame(message(FRAME_CHARACTERS)) * batch
    written, deadline = 0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for client in accepted:
            client.sendall(buffer)
        written += batch * connections
    control.send((written, time.process_time()))
    control.recv()


def measure(connections: int, batch: int, seconds: float) -> dict[str, float]:
    """Count the messages that the blaster writes in `seconds`, to the last one."""
    context = multiprocessing.get_context("fork")
    control, blaster_end = context.Pipe()
    usable = os.sched_getaffinity(0)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        blaster = context.Process(
            target=_blast, args=(listener, connections, batch, seconds, blaster_end), daemon=True
        )
        blaster.start()
        os.sched_setaffinity(0, {cores()[1]})
        engine = Engine()
        try:
            for _ in range(connections):
                engine.add(listener.getsockname()[1], "{}")
            engine.open()
            control.send(True)
            own, began = time.process_time(), time.perf_counter()
            while not select.select([control], [], [], 0)[0]:
                engine.run(0.05)
            elapsed, own = time.perf_counter() - began, time.process_time() - own
            written, blasting = control.recv()
            for _ in range(200):
                if engine.counters.messages >= written:
                    break
                engine.run(0.01)
            counted = engine.counters.messages
            control.send(True)
        finally:
            os.sched_setaffinity(0, usable)
            engine.close()
            blaster.join(10)
            blaster.kill()
    return {
        "written": written,
        "counted": counted,
        "rate": written / elapsed,
        "bytes": total_bytes(written),
        "generator": own / elapsed,
        "blaster": blasting / elapsed,
    }


def total_bytes(messages: int) -> int:
    return messages * len(frame(message(FRAME_CHARACTERS)))


def run(console: Console, plan: Plan) -> int:
    table = Table(title=f"{CONNECTIONS} connections, frames of {total_bytes(1)} bytes", title_justify="left")
    for heading in ("batch", "messages/s", "written", "counted", "generator's core", "blaster's core"):
        table.add_column(heading, justify="right")
    exact = True
    for batch in (1, 4, 16, 64):
        result = measure(plan.scaled(CONNECTIONS, 10), batch, plan.seconds)
        exact = exact and result["written"] == result["counted"]
        table.add_row(
            str(batch),
            f"{result['rate']:,.0f}",
            f"{result['written']:,.0f}",
            f"{result['counted']:,.0f}",
            f"{result['generator']:.0%}",
            f"{result['blaster']:.0%}",
        )
    console.print(table)
    return 0 if exact else 1
