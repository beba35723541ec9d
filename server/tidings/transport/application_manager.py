"""python-socketio's rooms and clients of the applications' namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import socketio

from tidings.transport.socketio_codecs import EVENT

if TYPE_CHECKING:
    from tidings.transport.python_socketio import ApplicationServer


class ApplicationManager(socketio.AsyncManager):  # type: ignore[misc]
    """The manager of an `ApplicationServer`. The core manages the rooms and clients of its own namespaces."""

    server: ApplicationServer

    async def emit(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any = None,
        skip_sid: Any = None,
        callback: Callable[..., Any] | None = None,
        to: Any = None,
        **_options: Any,
    ) -> None:
        """Encode once, and write to each session: no task or queue per recipient.

        An emit to one client waits while that client's buffer is full; an emit to a room or to all waits for nobody.
        A client whose connect handler is running gets the event when it is accepted. Raises ValueError for an event
        that no client's buffer could hold.
        """
        room = to or room
        reached = self.write_event(event, data, namespace, room, skip_sid, callback)
        if reached and room == reached[0][0]:
            await self.server.drained(reached[0][1], namespace)
        await asyncio.sleep(0)

    def write_event(
        self,
        event: str,
        data: Any,
        namespace: str,
        room: Any,
        skip_sid: Any,
        callback: Callable[..., Any] | None,
    ) -> Sequence[tuple[str, str]]:
        """`emit` without waiting. Returns sid and session of the clients in an application's namespace."""
        skipped = set(skip_sid) if isinstance(skip_sid, list) else {skip_sid} - {None}
        if namespace in self.server.core_namespaces:
            if callback is not None:
                raise ValueError(f"clients acknowledge no events in `{namespace}`: emit without a callback")
            rooms = None if room is None else list(room) if isinstance(room, list | tuple | set) else [room]
            self.server.core_emit(event, data, rooms, skipped, namespace)
            return ()
        arguments = list(data) if isinstance(data, tuple) else [] if data is None else [data]
        recipients = [part for part in self.get_participants(namespace, room) if part[0] not in skipped]

        def packet(ack_id: int | None = None) -> Any:
            return self.server.packet_class(EVENT, data=[event, *arguments], namespace=namespace, id=ack_id)

        if callback is None:
            self.server.write_all(recipients, packet())
        else:
            for recipient in recipients:
                self.server.write_all([recipient], packet(self._generate_ack_id(recipient[0], callback)))
        return recipients

    async def participants(self, namespace: str, room: Any = None) -> list[str]:
        """The sids of the clients in a room; room None: of all clients."""
        return [sid for sid, _ in self.get_participants(namespace, room)]

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        sid: str | None = await super().pre_connect(eio_sid, namespace)
        socket = self.server.connecting(eio_sid)
        if sid is not None and socket is not None:
            socket.sid = sid
        return sid

    def get_namespaces(self) -> list[str]:
        return [*self.server.core_namespaces, *self.rooms]

    def get_participants(self, namespace: str, room: Any) -> Iterator[tuple[str, str]]:
        if namespace not in self.server.core_namespaces:
            yield from super().get_participants(namespace, room)
            return
        rooms = room if isinstance(room, list | tuple) else [room]
        participants: dict[str, str] = {}
        for name in rooms:
            participants.update(self.server.core_participants(name, namespace))
        yield from participants.items()

    def get_rooms(self, sid: str, namespace: str) -> list[str]:
        if namespace in self.server.core_namespaces:
            return self.server.core_rooms(sid, namespace)
        rooms: list[str] = super().get_rooms(sid, namespace)
        return rooms

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> Any:
        if namespace in self.server.core_namespaces:
            return self.server.core_sid(eio_sid, namespace)
        return super().sid_from_eio_sid(eio_sid, namespace)

    def eio_sid_from_sid(self, sid: str, namespace: str) -> Any:
        if namespace in self.server.core_namespaces:
            return self.server.core_eio_sid(sid, namespace)
        return super().eio_sid_from_sid(sid, namespace)

    def is_connected(self, sid: str, namespace: str) -> bool:
        if namespace in self.server.core_namespaces:
            return self.server.core_eio_sid(sid, namespace) is not None
        return bool(super().is_connected(sid, namespace))

    def pre_disconnect(self, sid: str, namespace: str) -> Any:
        if namespace in self.server.core_namespaces:
            return self.server.core_eio_sid(sid, namespace)
        return super().pre_disconnect(sid, namespace)

    def basic_enter_room(self, sid: str, namespace: str, room: Any, eio_sid: str | None = None) -> None:
        self._check_room(namespace)
        super().basic_enter_room(sid, namespace, room, eio_sid)

    async def leave_room(self, sid: str, namespace: str, room: Any) -> None:
        self._check_room(namespace)
        await super().leave_room(sid, namespace, room)

    async def close_room(self, room: Any, namespace: str) -> None:
        self._check_room(namespace)
        await super().close_room(room, namespace)

    def _check_room(self, namespace: str) -> None:
        if namespace in self.server.core_namespaces:
            raise ValueError(
                f"the rooms of `{namespace}` are topics and conversations: "
                "actions such as `subscribe` change who is in them"
            )
