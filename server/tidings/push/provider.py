"""A provider of push notifications: one function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from tidings.transport.outgoing import DeliveryResult

GONE = 404, 410
"""The statuses of a subscription that has ended."""


class Address(NamedTuple):
    """The address of a subscription."""

    endpoint: str
    keys: Mapping[str, str]
    """Further strings that the provider needs."""


class Notification(NamedTuple):
    """A notification, which replaces an earlier one of the same topic."""

    data: Mapping[str, Any]
    """`tidings.contract.models.PushNotification`."""
    topic: str
    """The same for each notification of a room to a subscription, and says nothing about either: 32 characters."""
    ttl: int
    """Seconds for which it is worth showing."""


class Provider(Protocol):
    """Sends notifications to the subscriptions that name it, on the event loop.

    Returns what became of the request. A status in `GONE`, or the outcome `FORBIDDEN`, ends the subscription. After
    429, 5xx, or without an answer, it is called again later, `retry_after` seconds if given; after any other status,
    not again.
    """

    async def __call__(self, address: Address, notification: Notification, /) -> DeliveryResult: ...
