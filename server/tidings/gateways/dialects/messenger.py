"""The messenger protocol: the formats that its two halves share, and its WebSocket, which sends the events.

A conversation is any room that the user is in; a `ConversationId` is its `room_id`. The REST routes are in
`messenger_rest.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tidings.actions.dispatch import Answer
from tidings.auth import names
from tidings.contract.errors import ActionError, Error, ErrorCode, invalid
from tidings.contract.events import MessageChanged, TypingNow
from tidings.contract.models import Message, View
from tidings.gateways.client_session import MAX_EARLY, MAX_EARLY_BYTES, Backend
from tidings.gateways.dialects.base import DialectClient
from tidings.gateways.websocket_client import POLICY, TRY_LATER, UNAUTHENTICATED
from tidings.transport.input_limits import BoundedJson
from tidings.transport.websocket_server import WebSocketSession

PATH: Final = "/websocket"
_CHANGES: Final = {"message_edited": "Message Edited", "message_deleted": "Message Deleted"}
MAX_FIELDS: Final = 64
"""The most fields of one object, several times as many as any object has."""


def envelope(text: str, data: object = None) -> dict[str, object]:
    return {"Message": text, "Data": data}


def message_of(message: Mapping[str, Any]) -> dict[str, object]:
    """A canonical `Message` in the messenger's format."""
    fields = {
        "MessageId": message["id"],
        "ConversationId": message["room_id"],
        "Sender": message["sender"],
        "Message": message["content"],
        "Created": message["created_at"],
        "Edited": message["edited_at"],
        "Deleted": message["deleted"],
        "Seq": message["seq"],
    }
    if message["client_id"] is not None:
        fields["ClientId"] = message["client_id"]
    return fields


class MessengerFields:
    """The fields of a client's object, with names in any spelling: `MessageId`, `messageId`, `message_id`."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Raises `invalid` for a repeated field, or more than `MAX_FIELDS`."""
        if len(fields) > MAX_FIELDS:
            raise invalid("field", f"more than {MAX_FIELDS} fields")
        self._values: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        """The client's names of the fields of payloads, for error texts."""
        for name, value in fields.items():
            if _normalize(name) in self._values:
                raise invalid("field", "a field is given twice")
            self._values[_normalize(name)] = value

    def __getitem__(self, name: str) -> Any:
        """The value of a field, or None."""
        return self._values.get(_normalize(name))

    def take(self, **client_names: str) -> dict[str, Any]:
        """The payload of an action, from `field="Name"` pairs; without the fields that the client did not send."""
        self._names |= client_names
        return {field: value for field, name in client_names.items() if (value := self[name]) is not None}

    def describe(self, error: Error) -> str:
        """The text of an error, with the client's names of the fields."""
        fields = error.details.get("fields") if error.code is ErrorCode.INVALID else None
        if isinstance(fields, dict):
            return "; ".join(
                f"{self._names.get(field.split('.')[0], field)}: {reason}" for field, reason in fields.items()
            )
        first, _, rest = error.message.partition(" ")
        return f"{self._names.get(first, first)} {rest}".strip()


def _normalize(name: str) -> str:
    return name.replace("_", "").lower()


def to_send(fields: MessengerFields, conversation: str = "ConversationId") -> dict[str, Any]:
    """The payload of `message`, to a conversation or to a user. Raises `invalid`."""
    payload = fields.take(room_id=conversation, username="Recipient", content="Message", client_id="ClientId")
    if ("room_id" in payload) == ("username" in payload):
        raise invalid(conversation, "give either it or Recipient")
    return payload


class MessengerClient(DialectClient):
    """One WebSocket: receives a JWT, then typing and messages; sends the events of the user's conversations."""

    name = "messenger"

    def __init__(self, backend: Backend, session: WebSocketSession) -> None:
        super().__init__(backend, session)
        self._waiting: list[str | bytes] | None = []
        """Frames that arrived after the token and wait for `entered`; None after it."""
        self._waiting_bytes = 0

    def opened(self, query: Mapping[str, str]) -> None:
        self.send({"Message": "Websocket Open"})

    def received(self, data: str | bytes) -> None:
        if self._waiting is None:
            self._read(data)
        elif self.connection is None:
            self.sign_in_by_token(_token(data))
        else:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            if len(self._waiting) > MAX_EARLY or self._waiting_bytes > MAX_EARLY_BYTES:
                self.disconnect(POLICY)

    def refused(self, error: Error) -> None:
        if error.retryable or error.code is ErrorCode.INTERNAL:
            self.disconnect(TRY_LATER)
        else:
            self.disconnect(UNAUTHENTICATED)

    def signed_in(self) -> None:
        """Sends nothing: the answer is sent in `entered`, when the client can type in its rooms."""

    def entered(self) -> None:
        self.send({"Message": "Websocket Authenticated"})
        waiting, self._waiting = self._waiting or [], None
        for data in waiting:
            self._read(data)

    def translate(self, event: str, view: View) -> object | None:
        match view:
            case Message():
                return envelope("New Message", message_of(view.model_dump()))
            case MessageChanged() if event in _CHANGES:
                return envelope(_CHANGES[event], message_of(view.message.model_dump()))
            case TypingNow(typing=True) if view.username != self.username:
                return {"User": view.username, "Message": "Typing", "ConvId": view.room_id}
        return None

    def _read(self, data: str | bytes) -> None:
        fields = MessengerFields({})
        try:
            fields = MessengerFields(_object(_text(data)))
            if fields["Message"] == "Typing":
                self._ask("typing", self._typing(fields), fields, len(data))
            elif fields["Message"] == "New Message":
                fields = MessengerFields(_inner(fields["Data"]))
                self._ask("message", to_send(fields), fields, len(data))
            else:
                raise invalid("Message", 'must be "Typing" or "New Message"')
        except ActionError as error:
            self.actions.refuse(error, self._report_failure(fields))

    def _typing(self, fields: MessengerFields) -> dict[str, Any]:
        user = fields["User"]
        if not isinstance(user, str) or names.try_username_key(user) != names.username_key(self.username):
            raise ActionError(ErrorCode.FORBIDDEN, "User is not the authenticated user")
        if fields["ConvId"] is None:
            raise invalid("ConvId", "required")
        return fields.take(room_id="ConvId")

    def _ask(self, action: str, payload: Mapping[str, Any], fields: MessengerFields, size: int) -> None:
        self.actions.push(action, payload, size, self._report_failure(fields))

    def _report_failure(self, fields: MessengerFields) -> Callable[[Answer], None]:
        """A callback that sends the error of a failed action. A successful one is answered by its event."""

        def report(answer: Answer) -> None:
            if answer.error is not None:
                self.send(envelope(fields.describe(answer.error)))

        return report


def _token(data: str | bytes) -> str:
    """The JWT, bare or as a JSON string; empty for any other frame."""
    try:
        token = _text(data).strip()
        if token.startswith('"'):
            token = BoundedJson.loads(token)
    except (ActionError, ValueError):
        return ""
    return token.strip().removeprefix("Bearer ")


def _text(data: str | bytes) -> str:
    try:
        return data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise invalid("frame", "not JSON") from None


def _object(text: str) -> dict[str, Any]:
    try:
        return _inner(BoundedJson.loads(text), "frame")
    except ValueError:
        raise invalid("frame", "not JSON") from None


def _inner(value: object, name: str = "Data") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    return value
