"""The AsyncAPI 3.0 document of live connections, generated from the registry and the events.

AsyncAPI describes operations from the server's side: it *receives* actions and *sends* events. Each gateway is a
channel, with the same actions and events in its own format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidings import __version__
from tidings.actions.dispatch import Action, Registry
from tidings.contract.actions import ConnectAuth, NoPayload
from tidings.contract.errors import Error
from tidings.contract.events import EVENTS
from tidings.contract.models import Authenticated, Empty, View
from tidings.gateways import schemas
from tidings.gateways.openapi import tags
from tidings.gateways.schemas import Schema, Schemas

_ID: Final[Schema] = {
    "description": "Chosen by the client; the answer repeats it",
    "type": ["string", "number"],
    "maxLength": 128,
    "examples": [7],
}
_TOKEN: Final = "The `token` of `POST /api/register`, `/api/login` or `/api/refresh`."


def document(registry: Registry, prefix: str = "") -> dict[str, Any]:
    """Every action of a live connection, with its payload, answer and errors, and every event."""
    live = [action for action in registry if action.live]
    components = Schemas(
        received=[*(action.request for action in live), ConnectAuth, NoPayload],
        sent=[*(action.response for action in live), *EVENTS.values(), Authenticated, Empty, Error],
    )
    gateways = [_SocketIO(components), _WebSocket(components)]
    for gateway in gateways:
        gateway.describe(live, EVENTS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "A message server: once a message is acknowledged, everyone gets it. Over HTTP:"
            " [OpenAPI](openapi.json). The rules for receiving everything exactly once: docs/protocol.md.",
            "license": {"name": "Apache-2.0"},
            "tags": tags(live),
        },
        "defaultContentType": "application/json",
        "servers": {gateway.name: gateway.server(prefix) for gateway in gateways},
        "channels": {gateway.name: gateway.channel() for gateway in gateways},
        "operations": {name: operation for gateway in gateways for name, operation in gateway.operations.items()},
        "components": {
            "messages": {name: message for gateway in gateways for name, message in gateway.messages.items()},
            "schemas": components.components,
            "securitySchemes": {gateway.name: gateway.security for gateway in gateways},
        },
    }


@dataclass(frozen=True, slots=True)
class _Body:
    """A payload's schema, and an example."""

    schema: Schema
    example: Any


class _Gateway(ABC):
    """The description of a gateway: its server, channel, messages and operations."""

    name: str
    title: str
    address: str
    about: str
    protocol: str
    security: dict[str, Any]
    pathname: str | None = None
    bindings: dict[str, Any] | None = None

    def __init__(self, components: Schemas) -> None:
        self.components = components
        self.messages: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}

    # Each gateway wraps the models of the contract in frames of its own.

    @abstractmethod
    def request_body(self, name: str, data: _Body) -> _Body:
        """The request of an action."""

    @abstractmethod
    def answer_body(self, fields: Mapping[str, _Body]) -> _Body:
        """The answer to a request."""

    @abstractmethod
    def event_body(self, name: str, data: _Body) -> _Body:
        """An event."""

    @abstractmethod
    def describe_connect(self) -> None:
        """Describe how a connection begins."""

    # The parts of the document.

    def server(self, prefix: str) -> dict[str, Any]:
        described: dict[str, Any] = {
            "host": "{host}",
            "protocol": self.protocol,
            "title": self.title,
            "description": self.about,
            "variables": {"host": {"default": "127.0.0.1:8000", "description": "The server of this document"}},
            "security": [{"$ref": f"#/components/securitySchemes/{self.name}"}],
        }
        pathname = prefix + (self.pathname or "")
        return described | {"pathname": pathname} if pathname else described

    def channel(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "address": self.address,
            "title": self.title,
            "description": self.about,
            "servers": [{"$ref": f"#/servers/{self.name}"}],
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in self.messages},
        }
        return described if self.bindings is None else described | {"bindings": self.bindings}

    def describe(self, actions: list[Action], events: Mapping[str, type[View]]) -> None:
        for name, model in events.items():
            self._event(name, model)
        self.describe_connect()
        for action in actions:
            self._action(action)

    def body_of(self, model: type[Any]) -> _Body:
        return _Body(self.components.ref(model), self.components.example(self.components.of(model)))

    def message(self, key: str, name: str, summary: str, body: _Body, **more: Any) -> str:
        """Add a message to the document; returns its key."""
        key = f"{self.name}.{key}"
        self.messages[key] = {
            "name": name,
            "title": name,
            "summary": summary,
            "contentType": "application/json",
            "payload": body.schema,
            "examples": [{"name": name, "payload": body.example}],
            **more,
        }
        return key

    def operation(
        self, key: str, direction: str, messages: list[str], reply: list[str] | None = None, **more: Any
    ) -> None:
        described: dict[str, Any] = {
            "action": direction,
            "channel": {"$ref": f"#/channels/{self.name}"},
            "messages": [self._in_channel(message) for message in messages],
            **more,
        }
        if reply is not None:
            described["reply"] = {
                "channel": {"$ref": f"#/channels/{self.name}"},
                "messages": [self._in_channel(message) for message in reply],
            }
        self.operations[f"{self.name}.{key}"] = described

    def _in_channel(self, message: str) -> dict[str, str]:
        return {"$ref": f"#/channels/{self.name}/messages/{message}"}

    def _action(self, action: Action) -> None:
        for name in (action.name, *action.aliases):
            request = self.message(
                f"{name}.request",
                name,
                action.summary,
                self.request_body(name, self.body_of(action.request)),
                **self.more(),
            )
            answer = self.message(
                f"{name}.answer",
                f"{name} answer",
                "Success, or an error",
                self._answer(action.response),
                **self.more(),
            )
            errors = schemas.errors(action)
            alias = "" if name == action.name else f" An alias of `{action.name}`."
            listed = "\n".join(f"- `{code}`: {reason}" for code, reason in errors.items())
            self.operation(
                name,
                "receive",
                [request],
                [answer],
                title=name,
                summary=action.summary,
                description=f"{action.description}{alias}\n\nErrors:\n\n{listed}\n",
                tags=[{"name": action.noun}],
            )

    def more(self) -> dict[str, Any]:
        """Further fields of the messages of actions."""
        return {}

    def _answer(self, model: type[View]) -> _Body:
        data, error = self.body_of(model), self.body_of(Error)
        ok = self.answer_body({"ok": _Body({"type": "boolean", "const": True}, True), "data": data})
        failed = self.answer_body({"ok": _Body({"type": "boolean", "const": False}, False), "error": error})
        return _Body({"oneOf": [ok.schema, failed.schema]}, ok.example)

    def _event(self, name: str, model: type[View]) -> None:
        summary = " ".join((self.components.of(model).get("description") or f"The event `{name}`").split())
        event_body = self.message(f"{name}.event", name, summary, self.event_body(name, self.body_of(model)))
        self.operation(f"{name}.event", "send", [event_body], title=name, summary=summary, tags=[{"name": "events"}])


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

    def request_body(self, name: str, data: _Body) -> _Body:
        return data

    def answer_body(self, fields: Mapping[str, _Body]) -> _Body:
        return _object(fields)

    def event_body(self, name: str, data: _Body) -> _Body:
        return data

    def describe_connect(self) -> None:
        auth = self.message(
            "connect.request", "connect", "The `auth` of Socket.IO's CONNECT", self.body_of(ConnectAuth)
        )
        refused = self.message(
            "connect_error.event",
            "connect_error",
            "The connection is refused",
            _object({"message": _Body({"type": "string"}, "no such session"), "data": self.body_of(Error)}),
        )
        ready = f"{self.name}.ready.event"
        summary = "Open a connection. The missed entries follow, then `ready`; or the connection is refused"
        self.operation("connect", "receive", [auth], [ready, refused], title="connect", summary=summary)


class _WebSocket(_Gateway):
    name = "websocket"
    title = "Plain WebSocket"
    protocol = "ws"
    address = "/ws"
    about = (
        "JSON texts over a plain WebSocket. The token is in the query string, or in a first"
        " frame `authenticate`, whose `data` is that of Socket.IO's `auth`."
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

    def request_body(self, name: str, data: _Body) -> _Body:
        action = _Body({"type": "string", "const": name}, name)
        return _object({"id": _Body(_ID, 7), "action": action, "data": data}, optional=("id", "data"))

    def answer_body(self, fields: Mapping[str, _Body]) -> _Body:
        return _object({"id": _Body(_ID, 7), **fields}, optional=("id",))

    def event_body(self, name: str, data: _Body) -> _Body:
        return _object({"event": _Body({"type": "string", "const": name}, name), "data": data})

    def more(self) -> dict[str, Any]:
        return {"correlationId": {"location": "$message.payload#/id", "description": "The `id` of the request"}}

    def describe_connect(self) -> None:
        name = "authenticate"
        first = self.message(
            "connect.request",
            name,
            "The first request, unless the token is in the query string",
            self.request_body(name, self.body_of(ConnectAuth)),
            **self.more(),
        )
        answer = self.message(
            "connect.answer",
            f"{name} answer",
            "Accepted, or refused and closed",
            self._answer(Authenticated),
            **self.more(),
        )
        summary = (
            "Open a connection. The missed entries follow, then `ready`; or the connection is refused and closed"
        )
        ready = f"{self.name}.ready.event"
        self.operation("connect", "receive", [first], [answer, ready], title="connect", summary=summary)
        summary = "Close the connection, after the answer"
        request = self.message(
            "disconnect.request",
            "disconnect",
            summary,
            self.request_body("disconnect", self.body_of(NoPayload)),
            **self.more(),
        )
        answer = self.message(
            "disconnect.answer", "disconnect answer", "Success, or an error", self._answer(Empty), **self.more()
        )
        self.operation("disconnect", "receive", [request], [answer], title="disconnect", summary=summary)


def _object(fields: Mapping[str, _Body], optional: Collection[str] = ()) -> _Body:
    """An object with exactly these fields."""
    schema = {
        "type": "object",
        "required": [name for name in fields if name not in optional],
        "properties": {name: field.schema for name, field in fields.items()},
        "additionalProperties": False,
    }
    return _Body(schema, {name: field.example for name, field in fields.items()})
