"""Web Push (RFC 8030): encrypted for the browser (RFC 8291), and signed by this server (RFC 8292, VAPID)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tidings import __version__
from tidings.contract.errors import invalid
from tidings.push.provider import Address, Notification
from tidings.transport.outgoing import ANSWER_S, DeliveryResult, OutgoingRequests, check_url

if TYPE_CHECKING:
    from tidings.push.encryption import Encryption

ALLOWED_BY = "TIDINGS_PUSH=private"
"""The setting that allows http and private networks."""
_AUTH_BYTES = 16


def new_key() -> str:
    """A key that signs requests, as PEM."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def public_key(key: str) -> str:
    """The public part of a key in the form of `applicationServerKey`: the uncompressed point, base64url."""
    point = (
        _load(key)
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    return base64.urlsafe_b64encode(point).rstrip(b"=").decode()


def check_address(endpoint: str, keys: Mapping[str, str], *, private: bool) -> Address:
    """An address as a browser gives it. Raises `invalid`.

    Args:
        private: whether it may be http, and in a private network.
    """
    check_url(endpoint, private=private, allowed_by=ALLOWED_BY, field="endpoint")
    try:
        point, auth = (_decoded(keys[name]) for name in ("p256dh", "auth"))
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        if len(auth) != _AUTH_BYTES:
            raise ValueError
    except (KeyError, ValueError, binascii.Error):
        raise invalid("keys", "give `p256dh` and `auth` as the browser does") from None
    return Address(endpoint, {name: keys[name] for name in ("p256dh", "auth")})


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


class WebPushProvider:
    """The provider `web`. Call `close` after use."""

    def __init__(
        self,
        load_key: Callable[[], Awaitable[str]],
        *,
        contact: str,
        private: bool,
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            load_key: returns the key that signs requests.
            contact: where the operators of a push service reach those of this server (`mailto:` or `https:`).
            private: whether endpoints may be http, and in private networks.
            answer_s: the longest that a request may take.
            clock: returns seconds since the epoch, for the expiry of signatures.
        """
        self.private = private
        self._load_key = load_key
        self._contact = contact
        self._clock = clock
        self._requests = OutgoingRequests(private=private, allowed_by=ALLOWED_BY, answer_s=answer_s)
        self._encryption: Encryption | None = None

    async def __call__(self, address: Address, notification: Notification, /) -> DeliveryResult:
        """See `tidings.push.provider.Provider`."""
        if self._encryption is None:
            self._encryption = await asyncio.to_thread(_make, await self._load_key(), self._contact, self._clock)
        body = orjson.dumps(notification.data)
        encrypted, headers = self._encryption.encrypt(address, body, notification.ttl)
        headers += [
            ("content-type", "application/octet-stream"),
            ("user-agent", f"Tidings/{__version__}"),
            ("urgency", "high"),
            ("topic", notification.topic),
        ]
        return await self._requests.post(address.endpoint, headers, encrypted)

    async def close(self) -> None:
        await self._requests.close()


def _make(key: str, contact: str, clock: Callable[[], float]) -> Encryption:
    """Imports the library here: only servers that send pay for it."""
    from tidings.push.encryption import Encryption

    private = _load(key)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return Encryption(key.encode(), public, public_key(key), contact, clock)


def _load(key: str) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.encode(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
