"""One request of a webhook: what it contains, how it is signed, and where it may go.

The form is that of Standard Webhooks (https://www.standardwebhooks.com, version 1, symmetric signatures).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from tidings import __version__
from tidings.contract.administration import WEBHOOK_EVENT
from tidings.contract.errors import invalid
from tidings.contract.events import ENTRIES, EVENTS
from tidings.contract.models import timestamp
from tidings.transport.outgoing import ANSWER_S, DeliveryResult, OutgoingRequests

GONE = 410
ALLOWED_BY = "TIDINGS_WEBHOOK_PRIVATE"
"""The setting that allows http and private networks."""
PREFIX = "whsec_"
ANY_EVENT = "*"
TEST_EVENT = "webhook.test"
_EVENT_NAME = re.compile(WEBHOOK_EVENT)


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
    """Sends requests of webhooks; call `close` after use."""

    def __init__(self, *, private: bool, answer_s: float = ANSWER_S, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            private: whether URLs may be http, and addresses in private networks.
            answer_s: the longest that a request may take.
            clock: returns seconds since the epoch, for `webhook-timestamp`.
        """
        self.private = private
        self._clock = clock
        self._requests = OutgoingRequests(private=private, allowed_by=ALLOWED_BY, answer_s=answer_s)

    async def send(self, url: str, secret: str, message_id: str, body: bytes) -> DeliveryResult:
        """Send a request. Failures are results, not errors."""
        seconds = int(self._clock())
        headers = [
            ("content-type", "application/json"),
            ("user-agent", f"Tidings/{__version__}"),
            ("webhook-id", message_id),
            ("webhook-timestamp", str(seconds)),
            ("webhook-signature", sign(secret, message_id, seconds, body)),
        ]
        return await self._requests.post(url, headers, body)

    async def test(self, webhook_id: str, url: str, secret: str) -> DeliveryResult:
        """Send an event `webhook.test`."""
        body = encode_body(TEST_EVENT, int(self._clock() * 1000), {"webhook_id": webhook_id})
        return await self.send(url, secret, "msg_" + secrets.token_urlsafe(18), body)

    async def close(self) -> None:
        await self._requests.close()
