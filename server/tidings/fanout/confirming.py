"""The last confirmation of clients, before their node closes the connections.

Otherwise a client that brings no cursors would get entries again at its next connect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from tidings.fanout.connection import Connection

CONFIRM_S = 1.0
"""The longest wait for the confirmations."""


async def confirm_all(connections: Sequence[Connection]) -> None:
    """Write nothing more, and wait until everything written has arrived, but no longer than `CONFIRM_S`."""
    waiting = {connection for connection in connections if not connection.is_confirmed()}
    all_confirmed = asyncio.Event()

    def confirmed(connection: Connection) -> None:
        waiting.discard(connection)
        if not waiting:
            all_confirmed.set()

    for connection in connections:
        connection.leaving = True
    for connection in list(waiting):
        connection.when_confirmed = confirmed
        connection.when_closed.append(confirmed)
        connection.confirm()
    if waiting:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                await all_confirmed.wait()
