"""Clients that check every answer and event against the contract: python-socketio's, and a plain WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import socketio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import tidings.actions
from tidings.actions.dispatch import Registry
from tidings.contract.errors import Error
from tidings.contract.events import EVENTS
from tidings.contract.models import ApplicationEvent

DEADLINE_S = 30.0
REGISTRY = Registry(tidings.actions)


class Refused(Exception):
    """An action was answered with an error."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]
        self.details: Mapping[str, Any] = error["details"]
        self.error = error


class LiveClient(ABC):
    """One connection. `events` holds the received events in order."""

    def __init__(self, url: str, token: str | None, **auth: Any) -> None:
        self.url = url
        self.auth = {"token": token, **auth} if token is not None else dict(auth)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.closed = asyncio.Event()
        self._changed = asyncio.Event()
        self._returned: dict[int, None] = {}

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def send(self, action: str, payload: Mapping[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Perform an action without waiting; the future is the whole acknowledgement."""

    @abstractmethod
    async def call(self, action: str, payload: Any) -> dict[str, Any]:
        """Perform an action; returns the whole acknowledgement."""

    async def ask(self, action: str, payload: Any = None, /, **fields: Any) -> dict[str, Any]:
        """Perform an action; returns its data, raises `Refused` for an error."""
        answer = await self.call(action, fields if payload is None else payload)
        definition = REGISTRY.get(action)
        if answer["ok"]:
            assert set(answer) == {"ok", "data"}, answer
            if definition is not None:
                definition.response.model_validate(answer["data"])
            data: dict[str, Any] = answer["data"]
            return data
        assert set(answer) == {"ok", "error"}, answer
        assert set(answer["error"]) == {"code", "message", "details", "retryable"}, answer
        Error.model_validate(answer["error"])
        raise Refused(answer["error"])

    async def event(
        self, name: str, where: Callable[[dict[str, Any]], bool] = lambda _: True, deadline: float = DEADLINE_S
    ) -> dict[str, Any]:
        """The next event of that name (for which `where` holds) that no earlier call returned."""
        async with self._expecting(f"no such {name!r}", deadline):
            while True:
                for at, (event, payload) in enumerate(self.events):
                    if event == name and at not in self._returned and where(payload):
                        self._returned[at] = None
                        return payload
                self._changed.clear()
                await self._changed.wait()

    async def until(self, condition: Callable[[], bool], deadline: float = DEADLINE_S) -> None:
        """Wait until a condition on the received events holds."""
        async with self._expecting("no event that makes the condition hold", deadline):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    @asynccontextmanager
    async def _expecting(self, failure: str, deadline: float) -> AsyncIterator[None]:
        """Fail with the last received events if the body times out."""
        try:
            async with asyncio.timeout(deadline):
                yield
        except TimeoutError:
            ended = "; the connection has ended" if self.closed.is_set() else ""
            last = "".join(f"\n  {name} {payload}"[:200] for name, payload in self.events[-12:])
            raise AssertionError(f"{failure} within {deadline:g} s{ended}; last received:{last}") from None

    def of(self, name: str) -> list[dict[str, Any]]:
        """The payloads of all events of that name so far."""
        return [payload for event, payload in self.events if event == name]

    def contents(self, room_id: str | None = None) -> list[str]:
        """The contents of all messages so far, in order."""
        return [m["content"] for m in self.of("message") if room_id in (None, m["room_id"])]

    async def _event(self, event: str, *args: Any) -> None:
        (payload,) = args
        EVENTS.get(event, ApplicationEvent).model_validate(payload)
        self.events.append((event, payload))
        self._changed.set()

    async def _disconnect(self, *_: Any) -> None:
        self.closed.set()
        self._changed.set()


class Client(LiveClient):
    """A stock python-socketio client."""

    def __init__(self, url: str, token: str | None, **auth: Any) -> None:
        super().__init__(url, token, **auth)
        self.sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self.refusal: Any = None
        self.sio.on("*", self._event)
        self.sio.on("disconnect", self._disconnect)
        self.sio.on("connect_error", self._refused)

    async def connect(self, transports: list[str] | None = None, *, ready: bool = True) -> Client:
        """Connect, and wait for the end of the replay. Raises socketio's ConnectionError."""
        await self.sio.connect(
            self.url, auth=self.auth, transports=transports or ["websocket"], wait_timeout=DEADLINE_S
        )
        if ready:
            await self.event("ready")
        return self

    async def close(self) -> None:
        await self.sio.disconnect()

    async def call(self, action: str, payload: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self.sio.call(action, payload, timeout=DEADLINE_S)
        return answer

    def send(self, action: str, payload: Mapping[str, Any]) -> asyncio.Future[dict[str, Any]]:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        async def start() -> None:
            await self.sio.emit(action, dict(payload), callback=future.set_result)

        self._sending = asyncio.ensure_future(start())
        return future

    async def _refused(self, data: Any = None) -> None:
        self.refusal = data


class PlainClient(LiveClient):
    """JSON over a plain WebSocket, at `/ws`."""

    def __init__(self, url: str, token: str | None, **auth: Any) -> None:
        super().__init__(url, token, **auth)
        self.socket: ClientConnection
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._asked = 0
        self._sending: set[asyncio.Task[None]] = set()

    async def connect(self, *, ready: bool = True) -> PlainClient:
        """As `Client.connect`. Raises `Refused`."""
        self.socket = await connect(
            self.url.replace("http", "ws", 1) + "/ws", compression=None, ping_interval=None, max_size=None, proxy=None
        )
        self._reading = asyncio.create_task(self._read())
        await self.ask("authenticate", self.auth)
        if ready:
            await self.event("ready")
        return self

    async def close(self) -> None:
        await self.socket.close()
        await self._reading

    async def call(self, action: str, payload: Any) -> dict[str, Any]:
        return await asyncio.wait_for(self.send(action, payload), DEADLINE_S)

    def send(self, action: str, payload: Any) -> asyncio.Future[dict[str, Any]]:
        self._asked += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._asked] = future
        frame = json.dumps({"id": self._asked, "action": action, "data": payload})
        sending = asyncio.ensure_future(self._send(frame))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return future

    async def _send(self, frame: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(frame)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = json.loads(await self.socket.recv())
                if "event" in frame:
                    assert set(frame) == {"event", "data"}, frame
                    await self._event(frame["event"], frame["data"])
                else:
                    answered = self._answers.pop(frame.pop("id"))
                    if not answered.cancelled():
                        answered.set_result(frame)
        await self._disconnect()


@asynccontextmanager
async def connected(url: str, token: str, transports: list[str] | None = None, **auth: Any) -> AsyncIterator[Client]:
    """A connected client after `ready`."""
    client = Client(url, token, **auth)
    await client.connect(transports)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def plainly_connected(url: str, token: str, **auth: Any) -> AsyncIterator[PlainClient]:
    """As `connected`, over a plain WebSocket."""
    client = PlainClient(url, token, **auth)
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def unread_answers() -> Iterator[None]:
    """Ignore that python-engineio closes its HTTP session without reading the answer to its last request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()
