"""What every live gateway does when a connection opens."""

from __future__ import annotations

from sqlalchemy.engine import Connection as Transaction

from db.queries import users
from db.queries.users import DeviceRow
from server.auth import now_ms
from server.context import Parts
from server.contract.errors import ActionError, ErrorCode
from server.delivery.connection import Connection


async def open_device(parts: Parts, connection: Connection) -> None:
    """Register a connection and find its device, naming it if need be.

    The session is looked at again after the registration: had it been withdrawn before, the notice would have been
    missed. Raises `token_revoked`.
    """
    parts.hub.add(connection)
    principal, name = connection.principal, connection.device

    def load(conn: Transaction) -> DeviceRow | None:
        session = users.session(conn, principal.sid)
        if session is None or session.revoked_at is not None or session.disabled:
            raise ActionError(ErrorCode.TOKEN_REVOKED, "the token was withdrawn")
        return users.device(conn, principal.user_key, name)

    device = await parts.db.read(load)
    if device is None:
        device = await parts.db.write(lambda conn: users.add_device(conn, principal.user_key, name, now_ms()))
    connection.device_key, connection.seen_at = device.key, device.seen_at
