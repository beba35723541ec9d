"""The only module that imports the library `webpush`: encryption (RFC 8291), and signatures (RFC 8292)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import jwt
from webpush import WebPush, WebPushSubscription
from webpush.vapid import VAPID

from tidings.push.provider import Address

SIGNATURE_S = 12 * 3600
"""How long a signature is valid; at most 24 hours (RFC 8292, section 2). It is used for half of that."""
_ORIGINS = 1000
"""The most push services whose signatures are kept."""


class Encryption:
    """Encrypts messages, and signs their requests."""

    def __init__(
        self, private_key: bytes, public_key: bytes, shown: str, contact: str, clock: Callable[[], float]
    ) -> None:
        """
        Args:
            private_key, public_key: as PEM.
            shown: the public key in the form of `applicationServerKey`.
            contact: a `mailto:` or `https:` URL.
            clock: returns seconds since the epoch.
        """
        self._push = WebPush(private_key, public_key, subscriber=contact, expiration=SIGNATURE_S)
        self._push.vapid = _Signer(private_key, public_key, shown, clock)

    def encrypt(self, address: Address, body: bytes, ttl: int) -> tuple[bytes, list[tuple[str, str]]]:
        """The body of a request and its headers. `ttl`: seconds, more than 0."""
        subscription = WebPushSubscription.model_validate({"endpoint": address.endpoint, "keys": address.keys})
        message = self._push.get(body, subscription, ttl=ttl)
        return message.encrypted, list(message.headers.items())


class _Signer(VAPID):  # type: ignore[misc]  # the library has no types
    """Signs for the origin with its port, which the library leaves out, and once for many requests."""

    def __init__(self, private_key: bytes, public_key: bytes, shown: str, clock: Callable[[], float]) -> None:
        super().__init__(private_key, public_key)
        self._shown = shown
        self._clock = clock
        self._tokens: dict[str, tuple[float, str]] = {}

    def get_authorization_header(self, endpoint: Any, subscriber: str, expiration: int) -> str:
        parts, now = urlsplit(str(endpoint)), self._clock()
        origin = f"{parts.scheme}://{parts.netloc}"
        until, token = self._tokens.get(origin, (0.0, ""))
        if now > until:
            claims = {"aud": origin, "exp": int(now) + expiration, "sub": subscriber}
            token = jwt.encode(claims, self.private_key, algorithm="ES256")
            if len(self._tokens) >= _ORIGINS:
                self._tokens.clear()
            self._tokens[origin] = now + expiration / 2, token
        return f"vapid t={token}, k={self._shown}"
