"""How a live connection opens, whichever gateway it comes by."""

from __future__ import annotations

from server.context import Parts
from server.contract.actions import ConnectAuth
from server.delivery.connection import Connection, Link
from server.delivery.operations import NameDevice


async def open_connection(parts: Parts, link: Link, auth: ConnectAuth, purpose: str = "") -> Connection:
    """Authenticate a client, find its device (naming it if need be), and register the connection with the hub.

    `purpose`: what the connection is for, so that a ticket for that is as good as a token.
    Raises `unauthenticated`, `token_expired` or `token_revoked`. A session that is withdrawn meanwhile is noticed by
    the catch-up, which looks at it again after the registration.
    """
    principal, device = await parts.auth.arrive(auth.token, auth.device, purpose)
    if device is None:
        device = await parts.journal.write(NameDevice(principal, None, auth.device))
    connection = Connection(link, principal, auth.device)
    connection.device_key, connection.seen_at = device.key, device.seen_at
    parts.hub.add(connection)
    return connection
