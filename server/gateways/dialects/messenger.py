"""The messenger's words, which its two halves share, and its WebSocket: what happens, told as it happens.

A conversation is any room that the user is in; a `ConversationId` is its `room_id`. What can be asked over REST is in
`messenger_rest.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from server import names
from server.contract.errors import ActionError, Error, ErrorCode, invalid
from server.dispatch import Answer
from server.gateways.dialects.speaker import Speaker, SpeakerGateway
from server.gateways.websocket import MAX_EARLY, MAX_EARLY_BYTES, POLICY, TRY_LATER, UNAUTHENTICATED
from server.transport.protocol import Json
from server.transport.websocket import WebSocketSession

PATH: Final = "/websocket"


def envelope(said: str, data: object = None) -> dict[str, object]:
    return {"Message": said, "Data": data}


def message_of(message: Mapping[str, Any]) -> dict[str, object]:
    """A canonical `Message` in the messenger's words."""
    said = {
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
        said["ClientId"] = message["client_id"]
    return said


class Fields:
    """The fields that a client gave, by names however they are written: `MessageId`, `messageId`, `message_id`."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Raises `invalid` if one is given twice."""
        self._given: dict[str, Any] = {}
        self._known: dict[str, str] = {}
        for name, value in given.items():
            if _plain(name) in self._given:
                raise invalid("field", "one is given twice")
            self._given[_plain(name)] = value

    def __getitem__(self, name: str) -> Any:
        """None if it was not given."""
        return self._given.get(_plain(name))

    def take(self, **wanted: str) -> dict[str, Any]:
        """An action's payload: for each of its fields the one of that name here, if it was given."""
        self._known |= wanted
        return {field: value for field, name in wanted.items() if (value := self[name]) is not None}

    def said(self, error: Error) -> str:
        """What is wrong, in the names that the client knows."""
        fields = error.details.get("fields") if error.code is ErrorCode.INVALID else None
        if isinstance(fields, dict):
            return "; ".join(f"{self._known.get(at.split('.')[0], at)}: {why}" for at, why in fields.items())
        first, _, rest = error.message.partition(" ")
        return f"{self._known.get(first, first)} {rest}".strip()


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def to_send(fields: Fields, conversation: str = "ConversationId") -> dict[str, Any]:
    """The payload of `message`: into a conversation, or to a user, with whom the first message makes one."""
    payload = fields.take(room_id=conversation, username="Recipient", content="Message", client_id="ClientId")
    if ("room_id" in payload) == ("username" in payload):
        raise invalid(conversation, "give it, or Recipient")
    return payload


class Messenger(Speaker):
    """One WebSocket: a JWT, then who is typing; and every message of one's conversations."""

    name = "messenger"

    def __init__(self, gateway: SpeakerGateway, session: WebSocketSession) -> None:
        super().__init__(gateway, session)
        self._held: list[str | bytes] | None = []
        """What came behind the token, and waits until the connection is in its rooms; None: it is in them."""
        self._held_bytes = 0

    def opened(self, query: Mapping[str, str]) -> None:
        self.say({"Message": "Websocket Open"})

    def received(self, data: str | bytes) -> None:
        if self._held is None:
            self._read(data)
        elif self.connection is None:
            self.sign_in(_token(data))
        else:
            self._held.append(data)
            self._held_bytes += len(data)
            if len(self._held) > MAX_EARLY or self._held_bytes > MAX_EARLY_BYTES:
                self.leave(POLICY)

    def refused(self, error: Error) -> None:
        if error.retryable or error.code is ErrorCode.INTERNAL:
            self.leave(TRY_LATER)
        else:
            self.leave(UNAUTHENTICATED)

    def arrived(self) -> None:
        """It is told when who types hears it: see `entered`."""

    def entered(self) -> None:
        self.say({"Message": "Websocket Authenticated"})
        held, self._held = self._held or [], None
        for data in held:
            self._read(data)

    def told(self, event: str, payload: Any) -> object | None:
        if event == "message":
            return envelope("New Message", message_of(payload))
        if event == "message_edited":
            return envelope("Message Edited", message_of(payload["message"]))
        if event == "message_deleted":
            return envelope("Message Deleted", message_of(payload["message"]))
        if event == "typing" and payload["typing"] and payload["username"] != self.username:
            return {"User": payload["username"], "Message": "Typing", "ConvId": payload["room_id"]}
        return None

    def _read(self, data: str | bytes) -> None:
        fields = Fields({})
        try:
            fields = Fields(_object(_text(data)))
            if fields["Message"] == "Typing":
                self._ask("typing", self._typing(fields), fields, len(data))
            elif fields["Message"] == "New Message":
                fields = Fields(_inner(fields["Data"]))
                self._ask("message", to_send(fields), fields, len(data))
            else:
                raise invalid("Message", '"Typing" or "New Message" is wanted')
        except ActionError as error:
            self.answer(error, self._complain(fields))

    def _typing(self, fields: Fields) -> dict[str, Any]:
        user = fields["User"]
        if not isinstance(user, str) or names.try_username(user) != self.username:
            raise ActionError(ErrorCode.FORBIDDEN, "User is not who has authenticated")
        if fields["ConvId"] is None:
            raise invalid("ConvId", "is wanted")
        return fields.take(room_id="ConvId")

    def _ask(self, action: str, payload: Mapping[str, Any], fields: Fields, size: int) -> None:
        self.ask(action, payload, size, self._complain(fields))

    def _complain(self, fields: Fields) -> Callable[[Answer], None]:
        """Says what went wrong; what went well is seen."""

        def answered(answer: Answer) -> None:
            if answer.error is not None:
                self.say(envelope(fields.said(answer.error)))

        return answered


def _token(data: str | bytes) -> str:
    """The JWT, bare or as a JSON string. What is neither is no token either."""
    try:
        token = _text(data).strip()
        if token.startswith('"'):
            token = Json.loads(token)
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
        return _inner(Json.loads(text), "frame")
    except ValueError:
        raise invalid("frame", "not JSON") from None


def _inner(value: object, name: str = "Data") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(name, "an object is wanted")
    return value
