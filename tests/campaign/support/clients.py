"""Clients of `/ws` and of Socket.IO over a WebSocket, written from the protocol alone."""

from __future__ import annotations

import asyncio
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from tests.campaign.support.wire import DEADLINE_S, GONE, HOME, TEXT, Ended, Headers, WebSocket, drop, frame

Event = Callable[[str, dict[str, Any]], None]
ENGINE_PATH = "/socket.io/?EIO=4&transport=websocket"


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


class Refusal(Exception):
    """An action, or the connection, was answered with an error object."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {str(error.get('message'))[:200]}")
        self.code = str(error.get("code"))
        self.error = error


class Live(ABC):
    """A live connection: answers by id, events to a callback, in the order in which they come."""

    def __init__(self, socket: WebSocket, on_event: Event | None = None) -> None:
        self.socket = socket
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Done when the connection is over: its close code, None without one."""
        self._on_event: Event = on_event or (lambda name, payload: self.events.append((name, payload)))
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._is_ready = False
        self._refused: dict[str, Any] | None = None
        """The error that the connection was refused with."""
        self._reading: asyncio.Task[None] | None = None

    @abstractmethod
    def _frame(self, number: int, action: str, data: Any) -> str:
        """A request as it goes over the wire."""

    @abstractmethod
    def _came(self, message: str | bytes) -> None:
        """A message has come in."""

    def start(self) -> None:
        self._reading = asyncio.create_task(self._read())

    def send(self, action: str, data: Any) -> asyncio.Future[dict[str, Any]]:
        """Ask without waiting; the future is the whole answer, or raises `Ended`."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.ended.done():
            future.set_exception(Ended(self.ended.result()))
        else:
            self._answers[number] = future
            with suppress(*GONE):
                self._write(self._frame(number, action, data))
        future.add_done_callback(_seen)
        return future

    async def call(self, action: str, data: Any, deadline: float = DEADLINE_S) -> dict[str, Any]:
        """The whole answer. Raises `Ended`, TimeoutError."""
        return await asyncio.wait_for(self.send(action, data), deadline)

    async def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """The answer's data. Raises `Refusal`, `Ended`, TimeoutError."""
        answer = await self.call(action, data)
        if not answer["ok"]:
            raise Refusal(answer["error"])
        found: dict[str, Any] = answer["data"]
        return found

    async def event(self, name: str, deadline: float = DEADLINE_S) -> dict[str, Any]:
        """Take the first event of that name out of `events`, waiting for it if need be. Raises `Ended`."""
        async with asyncio.timeout(deadline):
            while True:
                for at, (event, payload) in enumerate(self.events):
                    if event == name:
                        del self.events[at]
                        return payload
                if self.ended.done():
                    raise Ended(self.ended.result())
                self._changed.clear()
                await self._changed.wait()

    async def _ready(self) -> None:
        """Wait until what was missed has come. Raises `Refusal`, `Ended`, TimeoutError."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._is_ready:
                if self._refused is not None:
                    raise Refusal(self._refused)
                if self.ended.done():
                    raise Ended(self.ended.result())
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        """The closing handshake, then the end."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self.socket.close()
        self.forget()

    def abort(self) -> None:
        """End it with a RST."""
        self.socket.abort()
        self.forget()

    def forget(self) -> None:
        """End it, whatever has become of the socket."""
        if self._reading is not None:
            self._reading.cancel()
        self._end(None)

    def _write(self, text: str) -> None:
        self.socket.writer.write(frame(TEXT, text.encode()))

    def _answered(self, number: int, answer: dict[str, Any]) -> None:
        future = self._answers.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _evented(self, name: str, payload: dict[str, Any]) -> None:
        self._is_ready = self._is_ready or name == "ready"
        self._on_event(name, payload)
        self._changed.set()

    async def _read(self) -> None:
        code: int | None = None
        try:
            while True:
                self._came(await self.socket.receive())
        except Ended as ended:
            code = ended.args[0]
        except asyncio.CancelledError:
            return
        except Exception:
            self._end(None)
            raise
        self._end(code)

    def _end(self, code: int | None) -> None:
        if not self.ended.done():
            self.ended.set_result(code)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Ended(code))
        self._answers.clear()
        self._changed.set()
        drop(self.socket.writer) if code is None else self.socket.writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()


def _auth(token: str, device: str, cursors: Mapping[str, int] | None) -> dict[str, Any]:
    """What a connection begins with; None: it brings no cursors."""
    return {"token": token, "device": device} | ({} if cursors is None else {"cursors": cursors})


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # whoever does not wait for an answer is not told that it never came


class Plain(Live):
    """JSON over `/ws`."""

    @classmethod
    async def open(
        cls,
        url: str,
        token: str,
        *,
        device: str = "default",
        cursors: Mapping[str, int] | None = None,
        source: str = HOME,
        headers: Headers = (),
        on_event: Event | None = None,
        ready: bool = True,
    ) -> Self:
        """Sign in; with `ready`, wait until what was missed has come. Raises `Refused`, `Refusal`, `Ended`."""
        self = cls(await WebSocket.connect(url, "/ws", headers, source), on_event)
        try:
            self.start()
            await self.ask("authenticate", **_auth(token, device, cursors))
            if ready:
                await self._ready()
        except BaseException:
            self.abort()
            raise
        return self

    def _frame(self, number: int, action: str, data: Any) -> str:
        return dumps({"id": number, "action": action, "data": data})

    def _came(self, message: str | bytes) -> None:
        found = json.loads(message)
        if "event" in found:
            self._evented(found["event"], found["data"])
        elif isinstance(found.get("id"), int):
            self._answered(found.pop("id"), found)


class Engine(Live):
    """Socket.IO on a WebSocket."""

    @classmethod
    async def open(
        cls,
        url: str,
        token: str,
        *,
        device: str = "default",
        cursors: Mapping[str, int] | None = None,
        source: str = HOME,
        on_event: Event | None = None,
    ) -> Self:
        """Connect and wait for `ready`. Raises `Refused`, `Refusal`, `Ended`, TimeoutError."""
        self = cls(await WebSocket.connect(url, ENGINE_PATH, (), source), on_event)
        try:
            await self.socket.send("40" + dumps(_auth(token, device, cursors)))
            self.start()
            await self._ready()
        except BaseException:
            self.abort()
            raise
        return self

    def _frame(self, number: int, action: str, data: Any) -> str:
        return f"42{number}" + dumps([action, data])

    def _came(self, message: str | bytes) -> None:
        if not isinstance(message, str):
            return
        if message == "2":
            self._write("3")
        elif message.startswith("43"):
            digits, _, rest = message[2:].partition("[")
            (answer,) = json.loads("[" + rest)
            self._answered(int(digits), answer)
        elif message.startswith("42"):
            name, payload = json.loads(message[2:])
            self._evented(name, payload)
        elif message.startswith("44"):
            self._refused = json.loads(message[2:]).get("data") or {}
            self._changed.set()
