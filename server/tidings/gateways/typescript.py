"""The contract as TypeScript types (`/contract.ts`), from the registry of actions and the events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel

from tidings.actions.dispatch import Action, Registry
from tidings.contract.actions import ConnectAuth, RoomRef, SubjectInRoom
from tidings.contract.errors import Error
from tidings.contract.events import EVENTS
from tidings.contract.models import PushNotification
from tidings.gateways.schemas import Schema, Schemas, exactly_one

_HEAD: Final = """\
// Made by the server from its registry of actions and its models. Do not edit.

/** Of these fields exactly one. */
type ExactlyOne<T> = {
  [K in keyof T]: { [P in K]: T[P] } & { [P in Exclude<keyof T, K>]?: null };
}[keyof T];

/** The one argument of every acknowledgement. */
export type Answer<T> = { ok: true; data: T } | { ok: false; error: ActionError };
"""
_BASES: Final = (RoomRef, SubjectInRoom)
"""Models whose rule (exactly one of some fields) other models share."""
_RENAMED: Final = {"Error": "ActionError"}
"""New names of models whose name means something else in JavaScript."""


def render(registry: Registry) -> str:
    """Return the text of a module of types."""
    requests: list[type[BaseModel]] = [*(action.request for action in registry), ConnectAuth, *_BASES]
    sent: list[type[BaseModel]] = [
        *(action.response for action in registry),
        *EVENTS.values(),
        Error,
        PushNotification,
    ]
    components = Schemas(received=requests, sent=sent)
    parts = [_HEAD, *(_declared(name, components) for name in sorted(components.components)), *_maps(registry)]
    return "\n".join(parts)


def _maps(registry: Registry) -> Iterable[str]:
    named_actions = [(name, action) for action in registry for name in (action.name, *action.aliases)]
    yield _interface(
        "Actions",
        "Every action: what it takes, and what it answers.",
        [
            (name, action.summary, f"{{ request: {_request(action)}; response: {_response(action)} }}", False)
            for name, action in named_actions
        ],
    )
    yield _interface(
        "Events",
        "Every event, and what it carries.",
        [(name, "", model.__name__, False) for name, model in EVENTS.items()],
    )
    yield _interface(
        "ServerToClientEvents",
        "For `Socket<ServerToClientEvents, ClientToServerEvents>` of socket.io-client.",
        [(name, "", f"(event: {model.__name__}) => void", False) for name, model in EVENTS.items()],
    )
    yield _interface(
        "ClientToServerEvents",
        "The actions of a live connection; each is acknowledged.",
        [
            (
                name,
                action.summary,
                f"(request: {_request(action)}, answer: (answer: Answer<{_response(action)}>) => void) => void",
                False,
            )
            for name, action in named_actions
            if action.live
        ],
    )


def _request(action: Action) -> str:
    return action.request.__name__


def _response(action: Action) -> str:
    return action.response.__name__


def _declared(name: str, components: Schemas) -> str:
    schema = components.components[name]
    name = _RENAMED.get(name, name)
    if not schema.get("properties"):
        body = "Record<string, never>" if schema.get("type") == "object" else _type(schema)
        return f"{_comment(schema)}export type {name} = {body};\n"
    fields = _fields(schema)
    if not (group := exactly_one(schema)):
        return _interface(name, schema.get("description", ""), fields)
    base = next((base.__name__ for base in _BASES if _extends(schema, components.of(base))), name)
    rest = [field for field in fields if field[0] not in group]
    if base == name or base not in components.components:
        alternatives = [
            (field, comment, type_.removesuffix(" | null"), False)
            for field, comment, type_, _ in fields
            if field in group
        ]
        first = f"ExactlyOne<{_object(alternatives)}>"
    else:
        first = base
        rest = [field for field in rest if field[0] not in components.components[base]["properties"]]
    parts = [first, *([_object(rest)] if rest else [])]
    return f"{_comment(schema)}export type {name} = {' & '.join(parts)};\n"


def _extends(schema: Schema, base: Schema) -> bool:
    """Whether a schema has the alternatives of a base, and all of its fields."""
    return exactly_one(base) == exactly_one(schema) and base["properties"].keys() <= schema["properties"].keys()


_Field = tuple[str, str, str, bool]
"""A field's name, comment, type, and whether it may be left out."""


def _fields(schema: Schema) -> list[_Field]:
    required = schema.get("required", ())
    return [
        (name, _comment_of(field, name in required), _type(field), name not in required)
        for name, field in schema["properties"].items()
    ]


def _comment_of(schema: Schema, required: bool) -> str:
    """The comment of a field: its description, and its default unless that is `null` or empty."""
    default = schema.get("default")
    default_line = "" if required or default in (None, {}, []) else f"Default: {json.dumps(default)}"
    return "\n".join(filter(None, [schema.get("description", ""), default_line]))


def _interface(name: str, comment: str, fields: Iterable[_Field]) -> str:
    return f"{_comment({'description': comment})}export interface {name} {_object(fields)}\n"


def _object(fields: Iterable[_Field]) -> str:
    lines = [
        f"{_comment({'description': comment}, '  ')}  {name}{'?' if optional else ''}: {type_};\n"
        for name, comment, type_, optional in fields
    ]
    return f"{{\n{''.join(lines)}}}"


def _comment(schema: Schema, indent: str = "") -> str:
    lines = [line.rstrip() for line in schema.get("description", "").replace("*/", "*\\/").splitlines()]
    if not lines:
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return "".join([f"{indent}/**\n", *(f"{indent} * {line}".rstrip() + "\n" for line in lines), f"{indent} */\n"])


def _type(schema: Schema) -> str:
    """A schema as a type."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _RENAMED.get(name, name)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(alternative) for alternative in schema["anyOf"]))
    match schema.get("type"):
        case "array":
            items = _type(schema["items"])
            return f"({items})[]" if " " in items else f"{items}[]"
        case "object":
            return f"Record<string, {_values(schema)}>"
        case "integer" | "number":
            return "number"
        case "string" | "boolean" | "null":
            return str(schema["type"])
        case None:  # any JSON
            return "unknown"
        case _:
            raise TypeError(f"no TypeScript type for {schema}")


def _values(schema: Schema) -> str:
    """The type of an object's values, whatever their names."""
    inner: Any = schema.get("additionalProperties", True)
    if "patternProperties" in schema:
        inner = next(iter(schema["patternProperties"].values()))
    return _type(inner) if isinstance(inner, dict) and inner else "unknown"
