"""The upgrade of an Engine.IO session from polling to a WebSocket, over ASGI and on a socket that was taken over.

Protocol: Engine.IO v4, "Upgrade" (https://socket.io/docs/v4/engine-io-protocol/#upgrade).
"""

from __future__ import annotations

import asyncio
from functools import partial

from tidings.transport.buffered_session import Packet, Receive, Send, WebSocketClosed, receive_packet, send_packet
from tidings.transport.engine_session import PING, PONG, UPGRADE, EngineSession
from tidings.transport.websocket_frames import packet_frame
from tidings.transport.websocket_wire import Wire

UPGRADE_TIMEOUT_S = 10.0
"""The time limit of an upgrade; then its WebSocket is closed."""


async def upgrade_over_asgi(session: EngineSession, receive: Receive, send: Send, timeout: float) -> bool:
    """Move a polling session, with its queued packets, to a WebSocket over ASGI; False if the client gave up."""
    try:
        async with asyncio.timeout(timeout) as limit:
            session.probe = partial(limit.reschedule, 0)
            packet = await receive_packet(receive)
            if packet == PING + "probe":
                session.upgrading = True
                await send_packet(send, PONG + "probe")
                session.nudge_poll()
                packet = await receive_packet(receive)
            if not _is_upgrade(packet, session) or session.closed:
                return False
            session.leave_polling()
            return True
    except (WebSocketClosed, TimeoutError):
        return False
    finally:
        session.probe = None
        session.upgrading = False


def _is_upgrade(packet: Packet, session: EngineSession) -> bool:
    """Whether the packet completes the upgrade. The clients of some microcontrollers send it without a probe."""
    return packet == UPGRADE and (session.upgrading or not session.polling)


class UpgradeProbe:
    """The move of a polling session to a WebSocket that was taken over, in progress."""

    def __init__(self, session: EngineSession, wire: Wire, timeout: float) -> None:
        self._session = session
        self._wire = wire
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(timeout, self._give_up)
        session.probe = self._give_up
        wire.take_over(self, session.server.max_http_buffer_size)

    def message(self, data: Packet) -> None:
        session, wire = self._session, self._wire
        if self._over:
            return
        if data == PING + "probe" and not session.upgrading:
            session.upgrading = True
            wire.write(packet_frame(PONG + "probe"))
            session.nudge_poll()
        elif _is_upgrade(data, session):
            self._end()
            session.leave_polling()
            session.bind(wire)
        else:
            self._give_up()

    def writable(self) -> None: ...

    def pong(self, payload: bytes) -> None: ...

    def failing(self, code: int) -> None: ...

    def lost(self) -> None:
        self._end()

    def _give_up(self) -> None:
        """Close the WebSocket; the session continues polling, or has ended."""
        self._end()
        self._wire.close_or_abort()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._session.probe = None
            self._session.upgrading = False
