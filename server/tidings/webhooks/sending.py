"""One request of a webhook: what it contains, how it is signed, and where it may go.

The form is that of Standard Webhooks (https://www.standardwebhooks.com, version 1, symmetric signatures).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from tidings import __version__
from tidings.contract.administration import WEBHOOK_EVENT
from tidings.contract.errors import invalid
from tidings.contract.events import ENTRIES, EVENTS
from tidings.contract.models import timestamp
from tidings.transport.addresses import is_public_address
from tidings.transport.outgoing import FAILURES, TIMEOUTS, AddressForbidden, OutgoingHttp

ANSWER_S = 15.0
"""The longest that a request may take, the look-up of the name and the answer included."""
MAX_ANSWER = 4096
"""Bytes of an answer that are read, so that its connection can be used again. They are ignored."""
GONE = 410
PREFIX = "whsec_"
ANY_EVENT = "*"
TEST_EVENT = "webhook.test"
_EVENT_NAME = re.compile(WEBHOOK_EVENT)
_MAX_CONNECTIONS = 64
_KEEP_S = 30.0


class DeliveryOutcome(StrEnum):
    DELIVERED = "delivered"
    REFUSED = "refused"
    """The answer was not 2xx; redirects are not followed."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"
    """Its address is not public, or its URL is not https."""


class DeliveryResult(NamedTuple):
    outcome: DeliveryOutcome
    reason: str
    status: int | None = None

    @property
    def delivered(self) -> bool:
        return self.outcome is DeliveryOutcome.DELIVERED


def check_url(url: str, *, private: bool) -> str:
    """A URL as a webhook may have it. Raises `invalid`.

    Args:
        private: whether it may be http, and in a private network.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port == 0 or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise invalid("url", "give an address like https://example.org/hook; international names in ASCII (xn--…)")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise invalid("url", "no user, password or fragment")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise invalid("url", "only https" + (" and http" if private else ""))
    if not private and _is_forbidden(host):
        raise invalid("url", "not a public address (TIDINGS_WEBHOOK_PRIVATE)")
    return url


def _is_forbidden(address: str) -> bool:
    """Whether it is an IP address that is not public."""
    try:
        return not is_public_address(address)
    except ValueError:
        return False


def check_events(names: Iterable[str]) -> list[str]:
    """The events of a webhook. Raises `invalid` for an event that cannot be an entry of a log."""
    names = sorted(set(names))
    for name in names:
        if not _EVENT_NAME.fullmatch(name):
            raise invalid("events", f"not the name of an event: {name!r}")
        if name in EVENTS and name not in ENTRIES.values():
            raise invalid("events", f"{name} is not kept in a room's log; of those that are: {_ENTRY_NAMES}")
    return names


_ENTRY_NAMES = ", ".join(ENTRIES.values())


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def entry_id(webhook_id: str, room_id: str, seq: int, created_at: int) -> str:
    """The `webhook-id` of an entry, the same for each attempt.

    A log that was restored from a backup may give the seq to another entry, but not with the same `created_at`.
    """
    place = f"{webhook_id}.{room_id}.{seq}.{created_at}".encode()
    return "msg_" + base64.urlsafe_b64encode(hashlib.sha256(place).digest()[:18]).decode()


def encode_body(name: str, created_at: int, data: dict[str, Any]) -> bytes:
    """The body of a request: the event, without the `client_id` of its message, which is for its sender."""
    message = data.get("message")
    if isinstance(message, dict):
        data = data | {"message": {key: value for key, value in message.items() if key != "client_id"}}
    data = {key: value for key, value in data.items() if key != "client_id"}
    return orjson.dumps({"type": name, "timestamp": timestamp(created_at), "data": data})


def sign(secret: str, message_id: str, seconds: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b"%s.%d.%s" % (message_id.encode(), seconds, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


class Sender:
    """Sends requests. Its connections are kept open for a while; call `close` after use."""

    def __init__(self, *, private: bool, answer_s: float = ANSWER_S, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            private: whether URLs may be http, and addresses in private networks.
            answer_s: the longest that a request may take.
            clock: returns seconds since the epoch, for `webhook-timestamp`.
        """
        self.private = private
        self._answer_s = answer_s
        self._clock = clock
        self._http = OutgoingHttp(
            "tidings.webhooks", private=private, max_connections=_MAX_CONNECTIONS, keep_s=_KEEP_S
        )

    async def send(self, url: str, secret: str, message_id: str, body: bytes) -> DeliveryResult:
        """Send a request. Failures are results, not errors."""
        if not (self.private or url.startswith("https:")):
            return DeliveryResult(DeliveryOutcome.FORBIDDEN, "only https")
        try:
            async with asyncio.timeout(self._answer_s):
                status = await self._post(url, secret, message_id, body)
        except AddressForbidden as error:
            return DeliveryResult(DeliveryOutcome.FORBIDDEN, f"{error} (TIDINGS_WEBHOOK_PRIVATE)")
        except TIMEOUTS:
            return DeliveryResult(DeliveryOutcome.TIMEOUT, f"no answer within {self._answer_s:g} s")
        except FAILURES as error:
            return DeliveryResult(DeliveryOutcome.UNREACHABLE, str(error) or type(error).__name__)
        if 200 <= status < 300:
            return DeliveryResult(DeliveryOutcome.DELIVERED, f"answered {status}", status)
        return DeliveryResult(DeliveryOutcome.REFUSED, f"answered {status}", status)

    async def test(self, webhook_id: str, url: str, secret: str) -> DeliveryResult:
        """Send an event `webhook.test`."""
        body = encode_body(TEST_EVENT, int(self._clock() * 1000), {"webhook_id": webhook_id})
        return await self.send(url, secret, "msg_" + secrets.token_urlsafe(18), body)

    async def _post(self, url: str, secret: str, message_id: str, body: bytes) -> int:
        seconds = int(self._clock())
        headers = [
            ("host", urlsplit(url).netloc),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("user-agent", f"Tidings/{__version__}"),
            ("webhook-id", message_id),
            ("webhook-timestamp", str(seconds)),
            ("webhook-signature", sign(secret, message_id, seconds, body)),
        ]
        async with self._http.stream("POST", url, headers, body) as response:
            size = 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > MAX_ANSWER:
                    break
            status: int = response.status
            return status

    async def close(self) -> None:
        await self._http.close()
