"""One Socket.IO connection: request actions, receive events.

Five properties of python-socketio's `AsyncClient` shape this module:

- It starts a task per incoming packet. Handlers that are coroutines overtake each other; plain functions run in the
  order of arrival. So every handler here is a plain function that queues the event and returns.
- `call()` does not notice a lost connection and waits for its timeout; a packet emitted while the connection closes
  is dropped silently. So `ask` keeps a future per request and fails all of them when the connection ends.
- Its own reconnection gives up after an orderly close by the server, and never gives up when the server refuses the
  token. Only the caller can tell these apart, so each `run()` is one new connection.
- `auth` may be a function. It is called once the connection is open, and so returns the newest token and cursors.
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

import aiohttp
import socketio
from pydantic import ValidationError

from tidings.contract.errors import Error, ErrorCode
from tidings.contract.events import EVENTS, Closing
from tidings.contract.models import ApplicationEvent, View
from tidings_chat.account import USER_AGENT
from tidings_chat.errors import NotConnected, Offline, Refused, read_error

_CANNOT_CONNECT: Final = (
    socketio.exceptions.ConnectionError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    ValueError,
)
_CONNECT_WITHIN: Final = 15.0
_CLOSE_WITHIN: Final = 2.0
_PING: Final = "2"

_log = logging.getLogger("tidings.client")
_log.addHandler(logging.NullHandler())  # without a handler, python-socketio would print to the screen


@dataclass(frozen=True)
class Event:
    """An event of the server, by its name on the wire. `connected`, without data, is this client's own."""

    name: str
    data: View | None = None


class Connection:
    def __init__(
        self,
        server: str,
        auth: Callable[[], Awaitable[dict[str, Any]]],
        receive: Callable[[Event], None],
        recorded: Callable[[], Awaitable[None]],
    ) -> None:
        """
        Args:
            auth: returns the payload of a connect.
            receive: gets every event in order, in the event loop; it must not block.
            recorded: returns when every received event is recorded, so that the server may count it as delivered.
        """
        self._server = server
        self._auth = auth
        self._receive = receive
        self._recorded = recorded
        self._socket: socketio.AsyncClient | None = None
        self._pending: set[asyncio.Future[Any]] = set()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    async def run(self) -> Closing | None:
        """Connect, and return when the connection has ended: the server's `closing` event, if it sent one.

        Raises `Refused` if the server refuses the connect, `Offline` if it cannot be reached.
        """
        refusal: list[Error] = []
        closing: list[Closing] = []

        def connected() -> None:
            self._socket = sio
            self._receive(Event("connected"))

        def refused(answer: Any = None) -> None:
            # {"message", "data"} from the server; a string if no server answered
            if isinstance(answer, dict):
                refusal.append(read_error(answer.get("data") or answer))

        def arrived(name: str, *args: Any) -> None:
            event = _read_event(name, args)
            if event is None:
                return
            if isinstance(event.data, Closing):
                closing.append(event.data)
            self._receive(event)

        # python-socketio does not close its own HTTP session on every path, so it gets this one.
        socket_class = _socket_class(self._recorded)
        async with aiohttp.ClientSession(headers={"User-Agent": USER_AGENT}, ws_response_class=socket_class) as http:
            sio = socketio.AsyncClient(
                reconnection=False, handle_sigint=False, logger=_log, engineio_logger=_log, http_session=http
            )
            sio.on("connect", connected)
            sio.on("connect_error", refused)
            sio.on("*", arrived)
            try:
                await sio.connect(self._server, auth=self._auth, wait_timeout=_CONNECT_WITHIN)
                await asyncio.wait([sio.eio.read_loop_task])
            except _CANNOT_CONNECT as error:
                if refusal:
                    raise Refused(refusal[0]) from None
                raise Offline(f"cannot connect to {self._server}: {error}") from None
            finally:
                self._socket = None
                for future in self._pending:
                    if not future.done():
                        future.set_exception(Offline("the connection was lost before the answer"))
                with contextlib.suppress(Exception):  # it may be in any state
                    async with asyncio.timeout(_CLOSE_WITHIN):
                        await sio.disconnect()
        return closing[0] if closing else None

    async def ask(self, action: str, payload: dict[str, Any], timeout: float = 20) -> dict[str, Any]:
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
            async with asyncio.timeout(timeout):
                answer = await future
        except socketio.exceptions.BadNamespaceError:
            raise NotConnected("not connected") from None
        except TimeoutError:
            raise Offline(f"no answer to {action} in {timeout:g} s") from None
        finally:
            self._pending.discard(future)
            if future.done() and not future.cancelled():
                future.exception()  # marks it as retrieved
        if not isinstance(answer, dict):
            raise Refused(Error(code=ErrorCode.INTERNAL, message=f"the answer to {action} is not an object"))
        if not answer.get("ok"):
            raise Refused(read_error(answer.get("error")))
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


def _read_event(name: str, args: tuple[Any, ...]) -> Event | None:
    """Parse an event; None for one that is neither Tidings' nor published to a room."""
    model = EVENTS.get(name, ApplicationEvent)
    if not args or (model is ApplicationEvent and not _is_published(name, args[0])):
        return None
    try:
        return Event(name, model.model_validate(args[0], extra="ignore"))
    except ValidationError as error:
        _log.warning("cannot read %s: %s", name, error)
        return None


def _is_published(name: str, payload: Any) -> bool:
    """Whether an event was published, and not emitted by an application of the server."""
    return isinstance(payload, dict) and payload.get("event") == name and "room_id" in payload
