"""A server on a plain socket that sends exactly the bytes of a test, in segments that the test chooses."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.capacity import UPGRADED, frame

Write = Callable[[bytes], None]
"""Write bytes to one connection."""

OPENING = frame('0{"sid":"x"}') + frame('40{"sid":"y"}')
READY = frame('42["ready",{}]')


def message(content: str = "", name: str = "message", **more: Any) -> bytes:
    return frame(f'42["{name}",{json.dumps({"content": content, **more}, separators=(",", ":"))}]')


def answer(number: int, *, ok: bool = True) -> bytes:
    return frame(f"43{number}" + json.dumps([{"ok": ok}], separators=(",", ":")))


def cut(data: bytes, seed: int) -> Iterator[bytes]:
    """The data in pieces of 1 to 40 bytes."""
    dice = random.Random(seed)
    at = 0
    while at < len(data):
        step = dice.randint(1, 40)
        yield data[at : at + step]
        at += step


def received(stream: Any) -> Iterator[str]:
    """The payloads of the frames that a client sends; all of them are masked."""
    while head := stream.read(2):
        assert head[0] in (0x81, 0x8A)
        assert head[1] & 0x80, "a client has to mask"
        length = head[1] & 0x7F
        if length == 126:
            length = int.from_bytes(stream.read(2), "big")
        mask = stream.read(4)
        yield bytes(byte ^ mask[at % 4] for at, byte in enumerate(stream.read(length))).decode()


class Sent:
    """A received action."""

    def __init__(self, text: str) -> None:
        digits, _, rest = text.removeprefix("42").partition("[")
        self.number = int(digits)
        self.name, self.payload = json.loads("[" + rest)


@contextmanager
def serving(connection: Callable[[Write, Iterator[str]], None]) -> Iterator[int]:
    """Serve on the yielded port; `connection` handles each connection after its upgrade and sign-in."""
    threads: list[threading.Thread] = []
    problems: list[BaseException] = []

    def serve(client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as stream:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while stream.readline().strip():
                    pass
                client.sendall(UPGRADED + OPENING)
                incoming = received(stream)
                assert next(incoming).startswith("40{")
                connection(client.sendall, incoming)
                for _ in incoming:  # until the client leaves
                    pass
        except (ConnectionError, StopIteration):
            pass
        except BaseException as problem:
            problems.append(problem)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
    for thread in threads:
        thread.join(10)
    assert not problems, problems
