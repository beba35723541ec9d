"""One Socket.IO connection: ask actions, get events.

Four things to know of python-socketio's `AsyncClient`, which shape this module:

- It starts a task per incoming packet. Handlers that are coroutines overtake each other; plain functions run in the
  order of arrival. So every handler here is a plain function that hands over and returns.
- `call()` does not notice that the connection is gone and waits out its timeout; and what is emitted while the
  connection closes is dropped in silence. So `ask` keeps a future per question and fails all of them at the end.
- Its own reconnection gives up where the server closes in an orderly way, and goes on for ever where the server
  refuses the token. Only the caller can tell these apart, so each `live()` is one connection, made anew.
- `auth` may be a function: it is called when the connection is open, and so brings the newest token and cursors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import socketio
from pydantic import ValidationError

from client_demo.errors import NotConnected, Offline, Refused, read_error
from server.contract.errors import Error, ErrorCode
from server.contract.events import EVENTS, Closing
from server.contract.models import View

_CANNOT_CONNECT: Final = (
    socketio.exceptions.ConnectionError,
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    ValueError,
)
_CONNECT_WITHIN: Final = 15.0
_CLOSE_WITHIN: Final = 2.0

_log = logging.getLogger("tidings.client")
_log.addHandler(logging.NullHandler())  # or python-socketio would write into the middle of the screen


@dataclass(frozen=True)
class Event:
    """What the server pushed, by its name on the wire. `connected` (without data) is this client's own."""

    name: str
    data: View | None = None


class Connection:
    def __init__(self, server: str, auth: Callable[[], dict[str, Any]], receive: Callable[[Event], None]) -> None:
        """`receive` gets every event, in order, in the event loop: it must not block. `auth` gives the payload of
        a connect."""
        self._server = server
        self._auth = auth
        self._receive = receive
        self._socket: socketio.AsyncClient | None = None
        self._asked: set[asyncio.Future[Any]] = set()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    async def live(self) -> Closing | None:
        """Connect, and return when that connection has ended: with what the server said before it closed.

        Raises `Refused` if the server does not let us in, `Offline` if it cannot be reached.
        """
        refusal: list[Error] = []
        closing: list[Closing] = []

        def connected() -> None:
            self._socket = sio
            self._receive(Event("connected"))

        def refused(answer: Any = None) -> None:
            # {"message", "data"} from the server; or a string, when there was no server to answer
            if isinstance(answer, dict):
                refusal.append(read_error(answer.get("data") or answer))

        def arrived(name: str, *args: Any) -> None:
            event = _read_event(name, args)
            if event is None:
                return
            if isinstance(event.data, Closing):
                closing.append(event.data)
            self._receive(event)

        # The HTTP session is ours, because python-socketio does not close its own on every path.
        async with aiohttp.ClientSession() as http:
            sio = socketio.AsyncClient(
                reconnection=False, handle_sigint=False, logger=_log, engineio_logger=_log, http_session=http
            )
            sio.on("connect", connected)
            sio.on("connect_error", refused)
            sio.on("*", arrived)
            try:
                await sio.connect(self._server, auth=self._auth, wait_timeout=_CONNECT_WITHIN)
                await asyncio.wait([sio.eio.read_loop_task])
            except _CANNOT_CONNECT as why:
                if refusal:
                    raise Refused(refusal[0]) from None
                raise Offline(f"cannot connect to {self._server}: {why}") from None
            finally:
                self._socket = None
                for future in self._asked:
                    if not future.done():
                        future.set_exception(Offline("the connection was lost before the answer"))
                with contextlib.suppress(Exception):  # it may be in any state
                    async with asyncio.timeout(_CLOSE_WITHIN):
                        await sio.disconnect()
        return closing[0] if closing else None

    async def ask(self, action: str, payload: dict[str, Any], timeout: float = 20) -> dict[str, Any]:
        """Ask an action and return the `data` of its answer.

        Raises `Refused` for an error answer, `Offline` if there is no connection or no answer came: then whether it
        has taken effect is not known.
        """
        sio = self._socket
        if sio is None:
            raise NotConnected("not connected")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(*args: Any) -> None:
            if not future.done():
                future.set_result(args[0] if args else None)

        self._asked.add(future)
        try:
            await sio.emit(action, payload, callback=answered)
            async with asyncio.timeout(timeout):
                answer = await future
        except socketio.exceptions.BadNamespaceError:
            raise NotConnected("not connected") from None
        except TimeoutError:
            raise Offline(f"no answer to {action} in {timeout:g} s") from None
        finally:
            self._asked.discard(future)
            if future.done() and not future.cancelled():
                future.exception()  # seen
        if not isinstance(answer, dict):
            raise Refused(Error(code=ErrorCode.INTERNAL, message=f"{action} got an answer that is none"))
        if not answer.get("ok"):
            raise Refused(read_error(answer.get("error")))
        data = answer.get("data")
        return data if isinstance(data, dict) else {}


def _read_event(name: str, args: tuple[Any, ...]) -> Event | None:
    """The event, or None for one that this client is too old to know."""
    model = EVENTS.get(name)
    if model is None or not args:
        return None
    try:
        return Event(name, model.model_validate(args[0], extra="ignore"))
    except ValidationError as why:
        _log.warning("cannot read %s: %s", name, why)
        return None
