"""Keys of backends: `tk_…`, each of a user of its own without a password.

A key is a session that has scopes and does not expire. So whatever ends a session ends a key: on every node, with its
live connections.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from hashlib import sha256
from typing import Final

from sqlalchemy.engine import Connection as Transaction

from tidings.auth import names
from tidings.auth.tokens import UNTIL_LOGOUT
from tidings.contract.errors import ActionError, ErrorCode, not_found
from tidings.contract.permissions import GRANTED, NO_PERMISSIONS, KeyScope, Permission
from tidings_db.queries import keys, users
from tidings_db.queries.keys import KeyRow

PREFIX: Final = "tk_"


def is_key(token: str) -> bool:
    return token.startswith(PREFIX)


def sid_of(key: str) -> str:
    """The `sid` of a key's session: only this digest of the key is stored."""
    return f"key-{sha256(key.encode()).hexdigest()[:48]}"


def scopes_of(stored: str | None) -> frozenset[KeyScope] | None:
    """The scopes of a session; None: it is not a key."""
    return None if stored is None else frozenset(map(KeyScope, stored.split()))


def granted_by(scopes: Collection[KeyScope] | None) -> frozenset[Permission]:
    return NO_PERMISSIONS.union(*(GRANTED.get(scope, NO_PERMISSIONS) for scope in scopes or ()))


def missing_scope(scope: KeyScope) -> ActionError:
    return ActionError(ErrorCode.FORBIDDEN, f"this needs a key with the scope `{scope}`", scope=scope)


def create(conn: Transaction, name: str, scopes: Collection[KeyScope], room_key: int | None, now: int) -> str:
    """Create a key, and its user unless that exists. Returns the key, which is not stored.

    Args:
        room_key: the only room in which its scopes hold; None: any.

    Raises `invalid`, or `conflict` if the name is that of a topic or of a user of another kind.
    """
    username = names.username(name)
    users.add(conn, username, None, now, service=True)
    user = users.by_key(conn, names.username_key(username))
    if user is None or not user.service:
        raise ActionError(ErrorCode.CONFLICT, f"{username} is not the name of a key, and is taken")
    if user.disabled:
        raise ActionError(ErrorCode.FORBIDDEN, f"{username} is disabled")
    key = PREFIX + secrets.token_urlsafe(30)
    ordered = " ".join(scope for scope in KeyScope if scope in scopes)
    keys.add(conn, sid_of(key), user.key, now, UNTIL_LOGOUT, ordered, room_key)
    return key


def revoke(conn: Transaction, key_id: str, now: int) -> KeyRow:
    """Withdraw a key. Raises `not_found`."""
    for row in keys.listed(conn):
        if row.key_id == key_id and row.revoked_at is None:
            users.revoke_session(conn, row.session_key, now)
            return row
    raise not_found("key")
