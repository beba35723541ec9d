"""python-socketio's server for the namespaces of applications, on Tidings' transport.

Every use of python-socketio and python-engineio beyond their documented interfaces is here, in
`application_manager.py`, `socketio_codecs.py` and `tidings.cluster.applications`; `tests/extending/test_versions.py`
lists them. Their handlers,
rooms, sessions and acknowledgements run unchanged, but send and receive through `ApplicationServer` instead of
Engine.IO.

The namespaces of the core (`/`) are not handled here: the listener gets their packets, and the subclass defines their
rooms.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import thread_time
from typing import Any, Final, NamedTuple, Protocol

import engineio
import socketio
from engineio.async_socket import AsyncSocket

from tidings.transport.application_manager import ApplicationManager
from tidings.transport.engine_session import ProtocolError
from tidings.transport.handshake import Handshake
from tidings.transport.namespace_socket import NamespaceSocket
from tidings.transport.socketio_codecs import (
    ACK,
    BINARY_ACK,
    BINARY_EVENT,
    CONNECT,
    CONNECT_ERROR,
    DISCONNECT,
    EVENT,
)
from tidings.transport.timers import GetTimers
from tidings.transport.turn import TURN_S

logger = logging.getLogger("tidings.applications")

RESERVED: Final = frozenset(("connect", "connect_error", "disconnect"))
"""Names of handlers that no client's event may reach."""
MAX_PENDING: Final = 1024
"""Packets of one session whose handlers have not finished; a client that sends more is disconnected."""
MAX_PENDING_BYTES: Final = 4 * 1024 * 1024
MAX_STARTED, MAX_STARTED_BYTES = 64, 32 * 1024
"""The most handlers of one session that start before others have their turn, and the bytes of their packets."""

REPEATED_S: Final = 10.0
"""A failure at the same line of code is logged once in so many seconds, and then how often it was repeated."""


class EngineOptions(engineio.AsyncServer):  # type: ignore[misc]
    """python-engineio's server without its sockets: its options, ids and background tasks.

    `sockets` are the subclass's sessions; python-socketio reads `upgraded` and `closed` of them.
    """

    sockets: dict[str, Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "monitor_clients": False, "async_handlers": False})


class Admission(Protocol):
    """Signs clients in to the namespaces of applications."""

    async def sign_in(self, socket: NamespaceSocket[Any], auth: Any) -> Any:
        """The principal of `auth`. Raises if it is not valid."""

    async def count_attempt(self, socket: NamespaceSocket[Any]) -> Callable[[], Awaitable[None]] | None:
        """Count a sign-in by the password of a namespace. Raises if there were too many.

        Returns what to call if it succeeds, so that it does not count; None: there is no limit.
        """

    def refusal(self, problem: Exception) -> dict[str, Any]:
        """The error for a client that `sign_in` refuses, or whose connect handler fails."""


class _FailureLog:
    """The log of failing handlers, which clients can call as often as they like."""

    def __init__(self, logger: logging.Logger, timers: GetTimers) -> None:
        self._logger = logger
        self._timers = timers
        self._repeats: dict[Hashable, int] = {}

    def log(self, error: Exception, text: str, *arguments: object) -> None:
        """Log a failure with its traceback; if that was done lately, only count it."""
        line = _line_of(error)
        if line in self._repeats:
            self._repeats[line] += 1
            return
        self._logger.error(text, *arguments, exc_info=error)
        self._repeats[line] = 0
        timers = self._timers()
        timers.call_at(timers.time() + REPEATED_S, partial(self._log_repeats, line, text, arguments))

    def _log_repeats(self, line: Hashable, text: str, arguments: tuple[object, ...]) -> None:
        repeats = self._repeats.pop(line)
        if repeats:
            self._logger.error(text + ", and %d more times in %g s", *arguments, repeats, REPEATED_S)


def _line_of(error: Exception) -> Hashable:
    """Where an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return type(error), None if traceback is None else (traceback.tb_frame.f_code, traceback.tb_lineno)


class _Packet(NamedTuple):
    kind: int
    socket: NamespaceSocket[Any]
    ack_id: int | None
    data: Any
    size: int


@dataclass(slots=True, eq=False)
class _Client:
    """The applications' state of one Engine.IO session: its handshake, its data, and its packets in order."""

    handshake: Handshake
    session: dict[str, Any] = field(default_factory=dict)
    """namespace -> the result of `get_session`."""
    opened: bool = False
    began: float = 0.0
    """The thread's processor time when the first handler of the latest batch started; 0.0: none has."""
    connecting: NamespaceSocket[Any] | None = None
    """The client whose CONNECT is being handled."""
    end_reason: str | None = None
    """Why the session has ended, once it has."""
    packets: deque[_Packet] = field(default_factory=deque)
    pending: int = 0
    """Number of packets that wait or whose handlers run."""
    pending_bytes: int = 0
    worker: asyncio.Task[None] | None = None


class ApplicationServer(socketio.AsyncServer, ABC):  # type: ignore[misc]
    """The documented interface of `socketio.AsyncServer`, for every namespace but the core's.

    The subclass transports packets: it calls `session_opened`, `receive` and `session_ended`, and writes packets.
    """

    def __init__(
        self,
        *,
        core_namespaces: Collection[str],
        packet_class: type[Any],
        engine_class: type[engineio.AsyncServer],
        admission: Admission | None = None,
        manager: ApplicationManager | None = None,
        **engine: Any,
    ) -> None:
        """`manager`: of the rooms and clients of applications; None: for a server without others beside it."""
        self.core_namespaces = frozenset(core_namespaces)
        self._engine_class = engine_class
        self._admission = admission
        self._applications: dict[str, _Client] = {}
        self._own_sign_in: set[str] = set()
        """Namespaces whose connect handler signs clients in by itself."""
        self._instrumented = False
        self._handlers_running: set[asyncio.Task[None]] = set()
        super().__init__(
            client_manager=ApplicationManager() if manager is None else manager,
            async_mode="asgi",
            serializer=packet_class,
            **engine,
        )
        self._failures = _FailureLog(logger, self.eio.timers)

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return self._engine_class

    # -- the transport ---------------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, eio_sid: str, packet: Any) -> None:
        """Send a packet other than an event; a session without room for it is closed as a slow consumer."""

    @abstractmethod
    def write_all(self, recipients: Sequence[tuple[str, str]], packet: Any) -> None:
        """Send an event to clients (sid and session), encoded once, under the terms of `write`.

        Clients that are not accepted yet get it when they are. Raises ValueError for a packet that
        is larger than the buffer of a session.
        """

    @abstractmethod
    async def drained(self, eio_sid: str, namespace: str) -> None:
        """Wait until most of an accepted client's buffer has been written, or its session is over."""

    # -- the core's namespaces -------------------------------------------------------------------------------------

    @abstractmethod
    def core_sid(self, eio_sid: str, namespace: str) -> str | None:
        """The client of a session in a namespace of the core."""

    @abstractmethod
    def core_eio_sid(self, sid: str, namespace: str) -> str | None:
        """The session of such a client."""

    @abstractmethod
    def core_rooms(self, sid: str, namespace: str) -> list[str]:
        """The rooms of such a client, its own first."""

    @abstractmethod
    def core_participants(self, room: str | None, namespace: str) -> Iterable[tuple[str, str]]:
        """sid and session of the clients of this node in a room; room None: of all clients."""

    @abstractmethod
    def core_emit(
        self, event: str, data: Any, rooms: Sequence[str] | None, skip: Collection[str], namespace: str
    ) -> None:
        """Send a transient event once to each client in some rooms (or with some sids), or to all.

        Raises ValueError if it may not be sent.
        """

    # -- registration ----------------------------------------------------------------------------------------------

    def on(self, event: str, handler: Any = None, namespace: str | None = None) -> Any:
        """See `socketio.AsyncServer.on`; not in the core's namespaces. Raises ValueError."""
        self._check_registration(namespace or "/", event)
        return super().on(event, handler, namespace)

    def register_namespace(self, namespace_handler: Any) -> None:
        """See `socketio.AsyncServer.register_namespace`; not for the core's namespaces. Raises ValueError.

        With an attribute `authenticate = False`, clients need no token for the namespace.
        """
        namespace = getattr(namespace_handler, "namespace", None)
        if namespace is not None:
            self._check_registration(namespace, "a namespace")
        super().register_namespace(namespace_handler)

    def list_actions(self, actions: dict[str, Any]) -> None:
        """Make the actions count as handlers of `/`: `on` refuses their names, the Admin UI lists the namespace."""
        self.handlers["/"] = actions

    def _check_registration(self, namespace: str, event: str) -> None:
        if namespace not in self.core_namespaces:
            return
        if event in self.handlers.get(namespace, ()):
            raise ValueError(f"`{event}` is an action of Tidings in `{namespace}`: it cannot have another handler")
        raise ValueError(
            f"`{namespace}` has the actions of Tidings, and no others: use a namespace of your own for {event}"
        )

    def has_namespace(self, namespace: str) -> bool:
        """Whether an application has registered a handler in it, and clients can be admitted."""
        return (
            self._admission is not None
            and namespace.startswith("/")
            and (namespace in self.handlers or namespace in self.namespace_handlers)
        )

    def needs_principal(self, namespace: str) -> bool:
        if namespace in self._own_sign_in:
            return False
        return bool(getattr(self.namespace_handlers.get(namespace), "authenticate", True))

    def instrument(self, *arguments: Any, namespace: str = "/admin", **options: Any) -> Any:
        """See `socketio.AsyncServer.instrument`. The Admin UI signs in with the `auth` given here, not with a token.

        python-socketio replaces methods of python-engineio's sockets for it, in the whole process. Tidings has none
        of those sockets, so they are put back.
        """
        names = ("handle_post_request", "_websocket_handler", "_send_ping")
        methods = {name: getattr(AsyncSocket, name) for name in names}
        self._own_sign_in.add(namespace)
        try:
            instrumented = super().instrument(*arguments, namespace=namespace, **options)
        finally:
            for name, method in methods.items():
                setattr(AsyncSocket, name, method)
        self._instrumented = True
        return instrumented

    # -- sessions --------------------------------------------------------------------------------------------------

    async def get_session(self, sid: str, namespace: str | None = None) -> dict[str, Any]:
        """See `socketio.AsyncServer.get_session`. Where a token is needed, it has the user as `principal`."""
        session: dict[str, Any] = self._session_data(sid, namespace or "/").setdefault(namespace or "/", {})
        return session

    async def save_session(self, sid: str, session: dict[str, Any], namespace: str | None = None) -> None:
        """See `socketio.AsyncServer.save_session`."""
        self._session_data(sid, namespace or "/")[namespace or "/"] = session

    def _session_data(self, sid: str, namespace: str) -> dict[str, Any]:
        """Raises KeyError for a client that is not in the namespace."""
        if namespace in self.core_namespaces:
            raise ValueError(f"there are no sessions in `{namespace}`: its clients are those of Tidings")
        eio_sid = self.manager.eio_sid_from_sid(sid, namespace)
        if eio_sid is None:
            raise KeyError(f"no client {sid} of {namespace} is connected to this server")
        return self._applications[eio_sid].session

    async def participants(self, room: Any = None, namespace: str | None = None) -> list[str]:
        """The sids of the clients in a room, on all nodes; room None: of all clients of the namespace.

        Raises TimeoutError if another node does not answer.
        """
        manager: ApplicationManager = self.manager
        return await manager.participants(namespace or "/", room)

    # -- called by the transport -----------------------------------------------------------------------------------

    def session_opened(self, eio_sid: str, handshake: Handshake) -> None:
        """A session was opened. Without an application, nothing is stored for it."""
        if self._instrumented or self.namespace_handlers or self.handlers.keys() - self.core_namespaces:
            client = self._applications[eio_sid] = _Client(handshake)
            if self._instrumented:
                self._work_soon(eio_sid, client)

    def connecting(self, eio_sid: str) -> NamespaceSocket[Any] | None:
        """The client of the session whose CONNECT to an application's namespace is being handled."""
        client = self._applications.get(eio_sid)
        return None if client is None else client.connecting

    def receive(self, socket: NamespaceSocket[Any], kind: int, ack_id: int | None, data: Any, size: int) -> None:
        """Queue a packet of a client to an application's namespace. Raises `ProtocolError`."""
        eio_sid = socket.session.sid
        client = self._applications.get(eio_sid)
        if client is None:
            raise ProtocolError("the session is older than the application")
        if kind in (EVENT, BINARY_EVENT) and not self._is_handled(data[0], socket.namespace):
            return
        if client.pending >= MAX_PENDING or client.pending_bytes + size > MAX_PENDING_BYTES:
            raise ProtocolError("too many packets whose handlers have not finished")
        client.pending += 1
        client.pending_bytes += size
        client.packets.append(_Packet(kind, socket, ack_id, data, size))
        self._work_soon(eio_sid, client)

    def _is_handled(self, event: Any, namespace: str) -> bool:
        """Whether an event may have a handler: a number has none, unless a function handles all events.

        Raises `ProtocolError` for what Node's parser refuses as the name of an event.
        """
        if isinstance(event, str) and event not in RESERVED:
            return True
        if isinstance(event, str | bool) or not isinstance(event, int | float):
            raise ProtocolError("not the name of an event")
        return "*" in self.handlers.get(namespace, ())

    def session_ended(self, eio_sid: str, reason: str) -> None:
        """The session is over. Earlier packets are handled first, then the disconnect handlers run."""
        client = self._applications.get(eio_sid)
        if client is not None:
            client.end_reason = reason
            self._work_soon(eio_sid, client)

    # -- handling --------------------------------------------------------------------------------------------------

    def _work_soon(self, eio_sid: str, client: _Client) -> None:
        if client.worker is None:
            client.worker = asyncio.create_task(self._work(eio_sid, client))

    async def _work(self, eio_sid: str, client: _Client) -> None:
        """Handle the packets of a session in order; the handlers of events run concurrently."""
        try:
            if not client.opened:
                client.opened = True
                await self.eio.handlers["connect"](eio_sid, client.handshake.environ())
            started, started_bytes, at_most = 0, 0, 1
            while client.packets:
                packet = client.packets.popleft()
                await self._handle(eio_sid, client, packet)
                started, started_bytes = started + 1, started_bytes + packet.size
                if client.packets and (started >= at_most or started_bytes >= MAX_STARTED_BYTES):
                    client.began = 0.0
                    await asyncio.sleep(0)  # the handlers start one after the other, then others have their turn
                    took = thread_time() - client.began if client.began else 0.0
                    at_most = 1 if took > TURN_S else min(2 * at_most, MAX_STARTED)
                    started = started_bytes = 0
        except Exception:
            logger.exception("a session of an application failed")
        if client.end_reason is not None:
            try:
                await self.eio.handlers["disconnect"](eio_sid, client.end_reason)
            except Exception:
                logger.exception("the end of an application's session failed")
            del self._applications[eio_sid]
        client.worker = None

    async def _handle(self, eio_sid: str, client: _Client, packet: _Packet) -> None:
        kind, namespace = packet.kind, packet.socket.namespace
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        connected = self.manager.is_connected(sid, namespace)
        if kind in (EVENT, BINARY_EVENT) and connected:
            task = asyncio.create_task(self._run_handler(eio_sid, client, sid, packet))
            self._handlers_running.add(task)
            task.add_done_callback(self._handlers_running.discard)
            return
        try:
            if kind == CONNECT and not packet.socket.has_left():
                client.connecting = packet.socket
                await self._handle_connect(eio_sid, namespace, packet.data)
                if packet.socket.has_left():
                    await self._handle_disconnect(
                        eio_sid, namespace, client.end_reason or self.reason.CLIENT_DISCONNECT
                    )
            elif kind == DISCONNECT:
                await self._handle_disconnect(eio_sid, namespace, self.reason.CLIENT_DISCONNECT)
            elif kind in (ACK, BINARY_ACK) and connected and packet.ack_id:  # 0 is the manager's own
                await self._handle_ack(eio_sid, namespace, packet.ack_id, packet.data or [])
        except Exception as error:
            self._failures.log(error, "a handler of %s failed", namespace)
        finally:
            client.connecting = None
            self._finish_packet(client, packet)

    async def _run_handler(self, eio_sid: str, client: _Client, sid: str, packet: _Packet) -> None:
        namespace = packet.socket.namespace
        if not client.began:
            client.began = thread_time()
        try:
            await self._handle_event_internal(self, sid, eio_sid, packet.data, namespace, packet.ack_id)
        except Exception as error:
            self._failures.log(error, "the handler of %.64r in %s failed", packet.data[0], namespace)
        finally:
            self._finish_packet(client, packet)

    def _finish_packet(self, client: _Client, packet: _Packet) -> None:
        client.pending -= 1
        client.pending_bytes -= packet.size

    def announce(self, event: str, namespace: str, sid: str, detail: object) -> None:
        """Report a client of the core that has connected or disconnected to the Admin UI, if there is one."""
        if self._instrumented and (event == "connect" or sid in self.manager._timestamps):
            task = asyncio.create_task(self._trigger_event(event, namespace, sid, detail))
            self._handlers_running.add(task)
            task.add_done_callback(self._handlers_running.discard)

    async def end_handlers(self) -> None:
        """Cancel the running handlers."""
        running = [*self._handlers_running, *(c.worker for c in self._applications.values() if c.worker is not None)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- overridden steps of python-socketio -----------------------------------------------------------------------

    async def _handle_connect(self, eio_sid: str, namespace: str, data: Any) -> None:
        """Sign the client in first, and always answer, even if the connect handler fails; unless it has left."""
        socket, admission = self.connecting(eio_sid), self._admission
        assert socket is not None
        assert admission is not None
        try:
            succeeded = await admission.count_attempt(socket) if namespace in self._own_sign_in else None
            if self.needs_principal(namespace):
                principal = await admission.sign_in(socket, data)
                self._applications[eio_sid].session.setdefault(namespace, {})["principal"] = principal
            if socket.has_left():
                return
            await super()._handle_connect(eio_sid, namespace, data)
            if succeeded is not None and socket.accepted:
                await succeeded()
        except Exception as problem:
            sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
            if sid is not None:
                await self.manager.disconnect(sid, namespace)
            if not socket.has_left():
                self.write(
                    eio_sid, self.packet_class(CONNECT_ERROR, data=admission.refusal(problem), namespace=namespace)
                )

    async def _trigger_event(self, event: str, namespace: str, *arguments: Any) -> Any:
        """Log a failing disconnect handler, so that the client still leaves its rooms."""
        try:
            return await super()._trigger_event(event, namespace, *arguments)
        except Exception as error:
            if event != "disconnect":
                raise
            self._failures.log(error, "the disconnect handler of %s failed", namespace)

    async def _send_packet(self, eio_sid: str, pkt: Any) -> None:
        self.write(eio_sid, pkt)
