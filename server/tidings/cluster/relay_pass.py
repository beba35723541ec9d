"""Passes: how a node proves to another one that it relays a client's requests.

A pass is the value of a header. It names the receiving node, the sending node, the time and the client's address, and
has a MAC by a key that is derived from the signing key. It is valid for `VALID_MS` and for one stream.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final
from urllib.parse import quote, unquote

VALID_MS: Final = 5000
"""How far the time of a pass may be from the receiver's. All nodes use PostgreSQL's clock."""
MAX_REMEMBERED: Final = 65_536
"""Passes that were used and are still valid. Beyond them, passes are refused until some have expired."""
_PURPOSE: Final = b"tidings: passes of the relay between nodes"


class RelayPasses:
    """Issues the passes of a node, and admits those for it."""

    def __init__(self, node_id: str, clock_ms: Callable[[], int]) -> None:
        self.refused = 0
        """Number of passes refused since the start."""
        self._node_id = node_id
        self._clock_ms = clock_ms
        self._keys: Sequence[bytes] = ()
        self._used: dict[str, int] = {}
        """When each used pass can be forgotten, by its MAC, in the order of these times."""

    def sign_with(self, keys: Sequence[bytes]) -> None:
        """Set the signing keys: passes have a MAC by the first, and may have one by any."""
        self._keys = [hmac.digest(key, _PURPOSE, "sha256") for key in keys]

    def issue(self, to: str, address: str) -> bytes:
        """A pass for one stream to the node `to`, for a client's requests."""
        fields = (to, self._node_id, str(self._clock_ms()), secrets.token_urlsafe(12), f"-{quote(address, safe='')}")
        body = " ".join(fields)
        return f"{body} {_mac(self._keys[0], body)}".encode()

    def admit(self, value: bytes) -> str | None:
        """Use a pass up. Returns the address of the client, or None if the pass is not valid."""
        address = self._check(value.decode("latin-1"))
        if address is None:
            self.refused += 1
        return address

    def recipient(self, value: bytes) -> str | None:
        """The node that a pass is for, or None if no node has issued it. Does not use it up."""
        text = value.decode("latin-1")
        return text.partition(" ")[0] if self._is_genuine(text) else None

    def _is_genuine(self, text: str) -> bool:
        body, _, mac = text.rpartition(" ")
        return mac.isascii() and any(hmac.compare_digest(_mac(key, body), mac) for key in self._keys)

    def _check(self, text: str) -> str | None:
        if not self._is_genuine(text):
            return None
        to, _from, issued_at, _nonce, address, mac = text.split(" ")
        now = self._clock_ms()
        for used in [used for used, forget_at in islice(self._used.items(), 2) if forget_at < now]:  # more than one
            del self._used[used]
        if to != self._node_id or abs(now - int(issued_at)) > VALID_MS:
            return None
        if mac in self._used or len(self._used) >= MAX_REMEMBERED:
            return None
        self._used[mac] = now + 2 * VALID_MS
        return unquote(address[1:])


def _mac(key: bytes, body: str) -> str:
    return hmac.digest(key, body.encode(), "sha256").hex()
