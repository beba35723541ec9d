"""The messages of a room as a live list, for a user interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tidings.contract import models
from tidings_client.contract import read
from tidings_client.outbox import Unsent
from tidings_client.streams import cut_and_add

if TYPE_CHECKING:
    from tidings_client.client import Client

_INITIAL: Final = 50


@dataclass(frozen=True)
class Item:
    """One line: a message of the room, or one that is not acknowledged yet."""

    message: models.Message | None
    unsent: Unsent | None = None
    state: str = "complete"
    """`complete`, `streaming` or `interrupted`; of an unsent message, its state in the outbox."""

    @property
    def content(self) -> str:
        if self.message is not None:
            return self.message.content
        return self.unsent.content if self.unsent is not None else ""


class Timeline:
    """Messages in seq order, as they are now, and the unsent ones after them."""

    def __init__(self, client: Client, room_id: str) -> None:
        self._client = client
        self._room_id = room_id
        self._messages: dict[int, models.Message] = {}
        self._listeners: dict[object, Callable[[], None]] = {}
        self.has_more = True
        """Whether `load_older` may find more."""
        self._unsubscribe = client.on("*", self._apply)

    @property
    def items(self) -> list[Item]:
        sent = [self._messages[seq] for seq in sorted(self._messages)]
        ids = {message.client_id for message in sent}
        waiting = [
            unsent
            for unsent in self._client.unsent
            if unsent.action == "message" and unsent.client_id not in ids and self._is_here(unsent.payload)
        ]
        return [
            *(Item(message, state=message.state) for message in sent),
            *(Item(None, unsent, unsent.state) for unsent in waiting),
        ]

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change; returns a function that ends it."""
        key = object()
        self._listeners[key] = changed
        return lambda: self._listeners.pop(key, None) and None

    async def load(self) -> None:
        """Show the newest messages."""
        self._add(await self._client.store.newest(self._room_id, "message", _INITIAL))
        if self._client.status.state == "online":
            payload = {"room_id": self._room_id, "limit": _INITIAL}
            self._add_page(await self._client.insist("history", payload))

    async def load_older(self, limit: int = 50) -> None:
        before = {"before": min(self._messages)} if self._messages else {}
        payload = {"room_id": self._room_id, "limit": limit, **before}
        self._add_page(await self._client.insist("history", payload))

    def close(self) -> None:
        self._unsubscribe()
        self._listeners.clear()

    def _is_here(self, payload: dict[str, Any]) -> bool:
        return bool(payload.get("room_id") == self._room_id)

    def _add_page(self, page: dict[str, Any]) -> None:
        oldest = min(self._messages, default=None)
        if oldest is None or not page["messages"] or page["messages"][0]["seq"] <= oldest:
            self.has_more = bool(page["has_more"])
        self._add(page["messages"])

    def _add(self, messages: list[dict[str, Any]]) -> None:
        """Add messages of a page, which may be older than an event that arrived before it."""
        for message in messages:
            self._messages[message["seq"]] = newest(self._messages.get(message["seq"]), read(models.Message, message))
        self._notify()

    def _apply(self, name: str, payload: Any, *_: Any) -> None:
        if name in ("outbox", "status"):
            self._notify()
        if not isinstance(payload, dict) or payload.get("room_id") != self._room_id:
            return
        if name == "message":
            self._messages[payload["seq"]] = read(models.Message, payload)
        elif name == "message_append":
            self._append(payload)
        elif name == "reset" and "event" not in payload:
            self._messages.clear()
            self._client.start_task(self.load())
        elif isinstance(message := payload.get("message"), dict) and message.get("seq") in self._messages:
            self._messages[message["seq"]] = read(models.Message, message)
        else:
            return
        self._notify()

    def _append(self, append: dict[str, Any]) -> None:
        for seq, message in self._messages.items():
            if message.id == append.get("message_id"):
                content = cut_and_add(message.content, append["offset"], append["text"])
                self._messages[seq] = message.model_copy(update={"content": content})
                return

    def _notify(self) -> None:
        for listener in list(self._listeners.values()):
            listener()


def newest(held: models.Message | None, other: models.Message) -> models.Message:
    """The newer state of a message that is held and of that in a page, which may be older than an event before it."""
    if held is None:
        return other
    if held.deleted or (held.edited_at or "") > (other.edited_at or ""):
        return held
    if other.state == "streaming":
        return held if held.state != "streaming" or len(held.content) > len(other.content) else other
    return other
