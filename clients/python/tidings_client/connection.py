"""One Socket.IO connection: request actions, receive events.

Five properties of python-socketio's `AsyncClient` shape this module:

- It starts a task per incoming packet. Handlers that are coroutines overtake each other; plain functions run in the
  order of arrival. So every handler here is a plain function that queues the event and returns.
- `call()` does not notice a lost connection; a packet emitted while the connection closes is dropped silently. So
  `ask` keeps a future per request and fails all of them when the connection ends.
- Its own reconnection cannot tell a lost connection from a refusal. So each `run()` is one new connection.
- Over polling, it hangs after an answer that was cut in its middle. So only WebSocket is used.
- It answers a PING in the same step of the event loop. That answer proves to the server that everything before the
  PING has arrived, so `_socket_class` holds the PING back until the arrivals are recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import socketio

from tidings_client.errors import NotConnected, Offline, ProtocolError, Refused, TidingsError

_CANNOT_CONNECT: Final = (
    socketio.exceptions.ConnectionError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    ValueError,
)
_CONNECT_WITHIN: Final = 15.0
_CLOSE_WITHIN: Final = 2.0
_ANSWER_WITHIN: Final = 20.0
_PING: Final = "2"

log = logging.getLogger("tidings.client")
log.addHandler(logging.NullHandler())  # without a handler, python-socketio would print


@dataclass(frozen=True)
class Event:
    """An event as it arrived. `connect`, without data, is this library's own: a new connection begins.

    No event of the server or of an application has this name: Socket.IO reserves it.
    """

    name: str
    data: dict[str, Any]


class Connection:
    def __init__(self, url: str, receive: Callable[[Event], None], recorded: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            receive: gets every event in order, in the event loop; it must not block.
            recorded: returns when every received event is recorded, so that the server may count it as delivered.
                If they cannot be recorded, it raises, which ends the connection.
        """
        self._url = url
        self._path = f"{urlsplit(url).path.strip('/')}/socket.io".lstrip("/")  # the client ignores a path in the URL
        self._receive = receive
        self._recorded = recorded
        self._socket: socketio.AsyncClient | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._dropped: asyncio.Future[None]

    async def run(self, auth: dict[str, Any]) -> dict[str, Any] | None:
        """Connect, and return when the connection has ended: the server's `closing` event, if it sent one.

        Raises `Refused` if the server refuses the connect, `Offline` if it cannot be reached.
        """
        refusal: list[Refused] = []
        closing: list[dict[str, Any]] = []
        dropped = self._dropped = asyncio.get_running_loop().create_future()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer_to_connect() -> None:
            if not answered.done():
                answered.set_result(None)

        def connected() -> None:
            self._socket = sio
            answer_to_connect()
            self._receive(Event("connect", {}))

        def refused(answer: Any = None) -> None:
            # {"message", "data"} from the server; a string if no server answered
            if isinstance(answer, dict):
                refusal.append(Refused.read(answer.get("data") or answer))
                answer_to_connect()

        def arrived(name: str, *args: Any) -> None:
            if not args or not isinstance(args[0], dict):
                return
            if name == "closing":
                closing.append(args[0])
            self._receive(Event(name, args[0]))

        # python-socketio does not close its own HTTP session on every path, so it gets this one.
        async with aiohttp.ClientSession(ws_response_class=_socket_class(self._recorded)) as http:
            sio = socketio.AsyncClient(
                reconnection=False, handle_sigint=False, logger=log, engineio_logger=log, http_session=http
            )
            sio.on("connect", connected)
            sio.on("connect_error", refused)
            sio.on("*", arrived)
            try:
                async with asyncio.timeout(_CONNECT_WITHIN):
                    await sio.connect(
                        self._url, auth=auth, transports=["websocket"], wait=False, socketio_path=self._path
                    )
                    ends = [sio.eio.read_loop_task, dropped]
                    await asyncio.wait([*ends, answered], return_when=asyncio.FIRST_COMPLETED)
                if refusal:
                    raise refusal[0]
                if self._socket is None:
                    raise Offline(f"cannot connect to {self._url}: the connection was lost")
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            except _CANNOT_CONNECT as error:
                raise Offline(f"cannot connect to {self._url}: {error}") from None
            finally:
                self._socket = None
                if not dropped.cancel():
                    dropped.exception()  # marks it as retrieved
                for future in self._pending:
                    if not future.done():
                        future.set_exception(Offline("the connection was lost before the answer"))
                with contextlib.suppress(Exception):  # it may be in any state
                    async with asyncio.timeout(_CLOSE_WITHIN):
                        await sio.disconnect()
        if dropped.done() and not dropped.cancelled():
            dropped.result()
        return closing[0] if closing else None

    def drop(self, error: TidingsError) -> None:
        """End the connection without confirming what has arrived; `run` raises the error."""
        if not self._dropped.done():
            self._dropped.set_exception(error)

    async def ask(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Request an action and return the `data` of its answer.

        Raises `Refused` for an error answer, `NotConnected` if the request was not sent, and `Offline` if no answer
        arrived: the action may have taken effect.
        """
        sio = self._socket
        if sio is None:
            raise NotConnected("not connected")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*args: Any) -> None:
            if not future.done():
                future.set_result(args[0] if args else None)

        self._pending.add(future)
        try:
            await sio.emit(action, payload, callback=answered)
            async with asyncio.timeout(_ANSWER_WITHIN):
                answer = await future
        except socketio.exceptions.BadNamespaceError:
            raise NotConnected("not connected") from None
        except TimeoutError:
            raise Offline(f"no answer to {action} in {_ANSWER_WITHIN:g} s") from None
        finally:
            self._pending.discard(future)
            if future.done() and not future.cancelled():
                future.exception()  # marks it as retrieved
        if not isinstance(answer, dict):
            raise ProtocolError(f"the answer to {action} is not an object")
        if answer.get("ok") is not True:
            raise Refused.read(answer.get("error"))
        data = answer.get("data")
        return data if isinstance(data, dict) else {}


def _socket_class(recorded: Callable[[], Awaitable[None]]) -> type[aiohttp.ClientWebSocketResponse]:
    """A WebSocket that hands over an Engine.IO PING only when everything before it is recorded."""

    class Socket(aiohttp.ClientWebSocketResponse):
        async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
            message = await super().receive(timeout)
            if message.data == _PING:
                await asyncio.sleep(0)  # lets the tasks of the packets before it call their handlers
                await recorded()
            return message

    return Socket
