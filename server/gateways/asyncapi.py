"""The AsyncAPI 3.0 document, made from the registry and the events: what goes over a live connection.

As AsyncAPI has it, an operation is told from the server's side: it *receives* actions, and *sends* events. Each
gateway is a channel, with the same actions and events in the shape of that gateway.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from server import __version__
from server.contract.actions import ConnectAuth, NoPayload
from server.contract.errors import Error
from server.contract.events import EVENTS
from server.contract.models import Authenticated, Empty, View
from server.dispatch import Action, Registry
from server.gateways import schemas
from server.gateways.openapi import tags
from server.gateways.schemas import Schema, Schemas

_ID: Final[Schema] = {
    "description": "Chosen by the client; its answer has the same",
    "type": ["string", "number"],
    "maxLength": 128,
    "examples": [7],
}
_TOKEN: Final = "The `token` of `POST /api/register`, `/api/login` or `/api/refresh`."


def document(registry: Registry) -> dict[str, Any]:
    """Every action of a live connection, with its payload, its answer and its refusals, and every event."""
    live = [action for action in registry if action.live]
    known = Schemas(
        taken=[*(action.request for action in live), ConnectAuth, NoPayload],
        given=[*(action.response for action in live), *EVENTS.values(), Authenticated, Empty, Error],
    )
    made = [_SocketIO(known), _WebSocket(known)]
    for gateway in made:
        gateway.describe(live, EVENTS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "A message server where an acknowledged message arrives. Over HTTP:"
            " [OpenAPI](/openapi.json). The rules by which a client gets everything once: docs/protocol.md.",
            "license": {"name": "Apache-2.0"},
            "tags": tags(live),
        },
        "defaultContentType": "application/json",
        "servers": {gateway.name: gateway.server() for gateway in made},
        "channels": {gateway.name: gateway.channel() for gateway in made},
        "operations": {name: operation for gateway in made for name, operation in gateway.operations.items()},
        "components": {
            "messages": {name: message for gateway in made for name, message in gateway.messages.items()},
            "schemas": known.components,
            "securitySchemes": {gateway.name: gateway.security for gateway in made},
        },
    }


@dataclass(frozen=True, slots=True)
class _Said:
    """A payload and an example of it."""

    schema: Schema
    example: Any


class _Gateway(ABC):
    """One way in: a server, a channel, and what goes over it."""

    name: str
    title: str
    address: str
    about: str
    protocol: str
    security: dict[str, Any]
    pathname: str | None = None
    bindings: dict[str, Any] | None = None

    def __init__(self, known: Schemas) -> None:
        self.known = known
        self.messages: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}

    # What differs between the gateways: the shape around the contract's models.

    @abstractmethod
    def asked(self, name: str, data: _Said) -> _Said:
        """The request of an action."""

    @abstractmethod
    def answered(self, fields: Mapping[str, _Said]) -> _Said:
        """The answer to a request."""

    @abstractmethod
    def told(self, name: str, data: _Said) -> _Said:
        """An event."""

    @abstractmethod
    def opening(self) -> None:
        """Describe how a connection begins."""

    # The document's parts.

    def server(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "host": "{host}",
            "protocol": self.protocol,
            "title": self.title,
            "description": self.about,
            "variables": {"host": {"default": "127.0.0.1:8000", "description": "Where this document is from"}},
            "security": [{"$ref": f"#/components/securitySchemes/{self.name}"}],
        }
        return made if self.pathname is None else made | {"pathname": self.pathname}

    def channel(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "address": self.address,
            "title": self.title,
            "description": self.about,
            "servers": [{"$ref": f"#/servers/{self.name}"}],
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in self.messages},
        }
        return made if self.bindings is None else made | {"bindings": self.bindings}

    def describe(self, actions: list[Action], events: Mapping[str, type[View]]) -> None:
        for name, model in events.items():
            self._event(name, model)
        self.opening()
        for action in actions:
            self._action(action)

    def said(self, model: type[Any]) -> _Said:
        return _Said(self.known.ref(model), self.known.example(self.known.of(model)))

    def message(self, key: str, name: str, says: str, body: _Said, **more: Any) -> str:
        """Put a message into the document; returns its key."""
        key = f"{self.name}.{key}"
        self.messages[key] = {
            "name": name,
            "title": name,
            "summary": says,
            "contentType": "application/json",
            "payload": body.schema,
            "examples": [{"name": name, "payload": body.example}],
            **more,
        }
        return key

    def operation(
        self, key: str, does: str, messages: list[str], reply: list[str] | None = None, **more: Any
    ) -> None:
        made: dict[str, Any] = {
            "action": does,
            "channel": {"$ref": f"#/channels/{self.name}"},
            "messages": [self._in_channel(message) for message in messages],
            **more,
        }
        if reply is not None:
            made["reply"] = {
                "channel": {"$ref": f"#/channels/{self.name}"},
                "messages": [self._in_channel(message) for message in reply],
            }
        self.operations[f"{self.name}.{key}"] = made

    def _in_channel(self, message: str) -> dict[str, str]:
        return {"$ref": f"#/channels/{self.name}/messages/{message}"}

    def _action(self, action: Action) -> None:
        for name in (action.name, *action.also):
            asks = self.message(
                f"{name}.request", name, action.summary, self.asked(name, self.said(action.request)), **self.more()
            )
            answers = self.message(
                f"{name}.answer", f"{name} answer", "Done, or refused", self._answer(action.response), **self.more()
            )
            refused = schemas.errors(action)
            also = "" if name == action.name else f" The same as `{action.name}`."
            listed = "\n".join(f"- `{code}`: {when}" for code, when in refused.items())
            self.operation(
                name,
                "receive",
                [asks],
                [answers],
                title=name,
                summary=action.summary,
                description=f"{action.description}{also}\n\nRefused with\n\n{listed}\n",
                tags=[{"name": action.noun}],
            )

    def more(self) -> dict[str, Any]:
        """What the messages of actions have beside their payload."""
        return {}

    def _answer(self, model: type[View]) -> _Said:
        data, error = self.said(model), self.said(Error)
        ok = self.answered({"ok": _Said({"type": "boolean", "const": True}, True), "data": data})
        failed = self.answered({"ok": _Said({"type": "boolean", "const": False}, False), "error": error})
        return _Said({"oneOf": [ok.schema, failed.schema]}, ok.example)

    def _event(self, name: str, model: type[View]) -> None:
        says = " ".join((self.known.of(model).get("description") or f"The event `{name}`").split())
        told = self.message(f"{name}.event", name, says, self.told(name, self.said(model)))
        self.operation(f"{name}.event", "send", [told], title=name, summary=says, tags=[{"name": "events"}])


class _SocketIO(_Gateway):
    name = "socketio"
    title = "Socket.IO"
    protocol = "socket.io"
    pathname = "/socket.io/"
    address = "/"
    about = (
        "Socket.IO v5 on Engine.IO v4; the channel is the namespace. An action is an event with an acknowledgement: a"
        " message's name is the event's, its payload the one argument, the reply the acknowledgement's one argument."
    )
    security: dict[str, Any] = {  # noqa: RUF012
        "type": "apiKey",
        "in": "password",
        "description": f"{_TOKEN} It goes as `token` into Socket.IO's `auth`.",
    }

    def asked(self, name: str, data: _Said) -> _Said:
        return data

    def answered(self, fields: Mapping[str, _Said]) -> _Said:
        return _object(fields)

    def told(self, name: str, data: _Said) -> _Said:
        return data

    def opening(self) -> None:
        auth = self.message("connect.request", "connect", "The `auth` of Socket.IO's CONNECT", self.said(ConnectAuth))
        refused = self.message(
            "connect_error.event",
            "connect_error",
            "The connection is refused",
            _object({"message": _Said({"type": "string"}, "no such session"), "data": self.said(Error)}),
        )
        ready = f"{self.name}.ready.event"
        says = "Open a connection: what was missed is sent again, then `ready`. Or it is refused"
        self.operation("connect", "receive", [auth], [ready, refused], title="connect", summary=says)


class _WebSocket(_Gateway):
    name = "websocket"
    title = "Plain WebSocket"
    protocol = "ws"
    address = "/ws"
    about = (
        "JSON texts over a plain WebSocket. The token stands in the query string, or comes in a first frame"
        " `authenticate`, whose `data` is that of Socket.IO's `auth`."
    )
    security: dict[str, Any] = {  # noqa: RUF012
        "type": "httpApiKey",
        "in": "query",
        "name": "token",
        "description": f"{_TOKEN} In the query string, or in a first frame `authenticate`.",
    }
    bindings: dict[str, Any] | None = {  # noqa: RUF012
        "ws": {
            "method": "GET",
            "query": {
                "type": "object",
                "properties": {
                    "token": {"type": "string", "description": _TOKEN},
                    "device": {"type": "string", "description": "As in Socket.IO's `auth`"},
                },
            },
        }
    }

    def asked(self, name: str, data: _Said) -> _Said:
        action = _Said({"type": "string", "const": name}, name)
        return _object({"id": _Said(_ID, 7), "action": action, "data": data}, optional=("id", "data"))

    def answered(self, fields: Mapping[str, _Said]) -> _Said:
        return _object({"id": _Said(_ID, 7), **fields}, optional=("id",))

    def told(self, name: str, data: _Said) -> _Said:
        return _object({"event": _Said({"type": "string", "const": name}, name), "data": data})

    def more(self) -> dict[str, Any]:
        return {"correlationId": {"location": "$message.payload#/id", "description": "Which request is answered"}}

    def opening(self) -> None:
        name = "authenticate"
        first = self.message(
            "connect.request",
            name,
            "The first request, unless the token stands in the query string",
            self.asked(name, self.said(ConnectAuth)),
            **self.more(),
        )
        answer = self.message(
            "connect.answer",
            f"{name} answer",
            "Let in, or refused and closed",
            self._answer(Authenticated),
            **self.more(),
        )
        says = "Open a connection: what was missed is sent again, then `ready`. Or it is refused, and closed"
        ready = f"{self.name}.ready.event"
        self.operation("connect", "receive", [first], [answer, ready], title="connect", summary=says)
        says = "Leave: answered, then closed"
        leave = self.message(
            "disconnect.request", "disconnect", says, self.asked("disconnect", self.said(NoPayload)), **self.more()
        )
        done = self.message(
            "disconnect.answer", "disconnect answer", "Done, or refused", self._answer(Empty), **self.more()
        )
        self.operation("disconnect", "receive", [leave], [done], title="disconnect", summary=says)


def _object(fields: Mapping[str, _Said], optional: Collection[str] = ()) -> _Said:
    """An object of just these fields."""
    schema = {
        "type": "object",
        "required": [name for name in fields if name not in optional],
        "properties": {name: field.schema for name, field in fields.items()},
        "additionalProperties": False,
    }
    return _Said(schema, {name: field.example for name, field in fields.items()})
