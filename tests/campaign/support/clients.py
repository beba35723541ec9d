"""Clients of `/ws` and of Socket.IO over a WebSocket, written only from the protocol."""

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
    """A live connection: answers by id, events to a callback in their order."""

    def __init__(self, socket: WebSocket, on_event: Event | None = None) -> None:
        self.socket = socket
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended, with its close code or None."""
        self._on_event: Event = on_event or (lambda name, payload: self.events.append((name, payload)))
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._is_ready = False
        self._refused: dict[str, Any] | None = None
        """The error of a refused connection."""
        self._reading: asyncio.Task[None] | None = None

    @abstractmethod
    def _frame(self, number: int, action: str, data: Any) -> str:
        """A request as it goes over the wire."""

    @abstractmethod
    def _receive(self, message: str | bytes) -> None:
        """Handle a received message."""

    def start(self) -> None:
        self._reading = asyncio.create_task(self._read())

    def send(self, action: str, data: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a request without waiting; the future is the complete answer, or raises `Ended`."""
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.ended.done():
            future.set_exception(Ended(self.ended.result()))
        else:
            self._answers[number] = future
            with suppress(*GONE):
                self._write(self._frame(number, action, data))
        future.add_done_callback(_retrieve_exception)
        return future

    async def call(self, action: str, data: Any, deadline: float = DEADLINE_S) -> dict[str, Any]:
        """Send a request; returns the complete answer. Raises `Ended`, TimeoutError."""
        return await asyncio.wait_for(self.send(action, data), deadline)

    async def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Send a request; returns the data of its answer. Raises `Refusal`, `Ended`, TimeoutError."""
        answer = await self.call(action, data)
        if not answer["ok"]:
            raise Refusal(answer["error"])
        fields: dict[str, Any] = answer["data"]
        return fields

    async def event(self, name: str, deadline: float = DEADLINE_S) -> dict[str, Any]:
        """Wait for the first event of that name, and remove it from `events`. Raises `Ended`."""
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
        """Wait for `ready`. Raises `Refusal`, `Ended`, TimeoutError."""
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
        """End the connection with a RST."""
        self.socket.abort()
        self.forget()

    def forget(self) -> None:
        """End the connection, whatever the state of the socket."""
        if self._reading is not None:
            self._reading.cancel()
        self._end(None)

    def _write(self, text: str) -> None:
        self.socket.writer.write(frame(TEXT, text.encode()))

    def _answered(self, number: int, answer: dict[str, Any]) -> None:
        future = self._answers.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _dispatch_event(self, name: str, payload: dict[str, Any]) -> None:
        self._is_ready = self._is_ready or name == "ready"
        self._on_event(name, payload)
        self._changed.set()

    async def _read(self) -> None:
        code: int | None = None
        try:
            while True:
                self._receive(await self.socket.receive())
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
    """The payload of a connect; None: without cursors."""
    return {"token": token, "device": device} | ({} if cursors is None else {"cursors": cursors})


def _retrieve_exception(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()  # no warning about an answer that nobody awaits


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
        """Sign in; with `ready`, wait for the end of the replay. Raises `Refused`, `Refusal`, `Ended`."""
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

    def _receive(self, message: str | bytes) -> None:
        parsed = json.loads(message)
        if "event" in parsed:
            self._dispatch_event(parsed["event"], parsed["data"])
        elif isinstance(parsed.get("id"), int):
            self._answered(parsed.pop("id"), parsed)


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

    def _receive(self, message: str | bytes) -> None:
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
            self._dispatch_event(name, payload)
        elif message.startswith("44"):
            self._refused = json.loads(message[2:]).get("data") or {}
            self._changed.set()
