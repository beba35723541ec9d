"""Generates parts of the documents from the code: `python -m docs.generate`, or `make docs`.

A part stands between two markers, `<!-- generated: name -->` and `<!-- /generated -->`, in a document of the root or
of docs/. Its sources are the registry of actions, the contract's models and the settings. With `--check` nothing is
written; the exit status is 1 if a part is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, JsonValue, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo

import tidings.actions
from bench import scaling
from tidings import node
from tidings.actions import context
from tidings.actions.dispatch import Action, Registry
from tidings.auth import attempts, names
from tidings.auth.limits import QUOTAS, RATES, Limit, rate
from tidings.contract import actions, events, models, validation
from tidings.contract.errors import CloseReason, Error, ErrorCode
from tidings.contract.models import Role, RoomKind
from tidings.contract.permissions import ON_A_MESSAGE, WITHOUT, Permission, refusal
from tidings.fanout import hub, member_events, typing
from tidings.gateways import action_queue, client_session, rest
from tidings.gateways.websocket_client import CLOSE_CODES
from tidings.log import cursors, messages
from tidings.settings import Settings
from tidings.transport import (
    admission,
    buffered_session,
    engine_session,
    input_limits,
    socketio_server,
    tcp_connections,
    uvicorn_server,
    websocket_frames,
    websocket_wire,
)

ROOT: Final = Path(__file__).resolve().parent.parent
EXAMPLE: Final = ROOT / ".env.example"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

_NAMES: Final[dict[str, tuple[Any, str]]] = {
    "username": (
        actions.Username,
        "string, 1–32 characters (PRECIS UsernameCasePreserved, RFC 8265), without whitespace, control or direction"
        " characters; shown as it was registered, and compared in its case-mapped form: `brianyork` is `BrianYork`",
    ),
    "topic_name": (
        actions.TopicName,
        "string, 1–64 characters after NFC and trimming; no control or direction characters; compared by case-folded"
        " NFKC",
    ),
    "id": (actions.Id, ""),
    "client_id": (
        actions.ClientId,
        "string, 1–64 characters, chosen by the sender, unique per room: however often sent, it takes effect once",
    ),
    "content": (actions.Content, ""),
    "device": (actions.DeviceName, ""),
    "seq": (actions.Seq, ""),
    "timestamp": (models.Timestamp, "string, ISO 8601 in UTC with milliseconds: `2026-01-31T09:30:00.250Z`"),
}
"""The contract's named types, each with a description if its schema is not enough."""

_TIMESTAMP: Final = TypeAdapter(models.Timestamp).json_schema()

_KINDS: Final[Sequence[tuple[str, RoomKind, bool]]] = (
    ("public topic", RoomKind.TOPIC, False),
    ("private topic", RoomKind.TOPIC, True),
    ("group", RoomKind.GROUP, True),
    ("direct conversation", RoomKind.DIRECT, True),
)


def registry() -> Registry:
    return Registry(tidings.actions)


# -- types -----------------------------------------------------------------------------------------------------------


def type_of(hint: Any) -> str:
    """A type as the tables have it: a named type, a JSON type with its limits, or a link to a model."""
    for name, (named_type, _) in _NAMES.items():
        if hint == named_type:
            return name
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(alternative) for alternative in get_args(hint)))
    if origin is Annotated:
        base = get_args(hint)[0]
        return _limited(hint) if base in (str, int) else type_of(base)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if origin is list:
        return f"[{type_of(get_args(hint)[0])}]"
    if origin is dict:
        key, value = get_args(hint)
        return "object" if value is Any else f"{{{type_of(key)}: {type_of(value)}}}"
    if hint is type(None):
        return "null"
    if hint is JsonValue:
        return "any JSON"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return " or ".join(f"`{value}`" for value in hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return _link(hint)
    return {str: "string", int: "integer", bool: "boolean"}[hint]


def _link(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


def _limited(hint: Any) -> str:
    schema = TypeAdapter(hint).json_schema()
    kind = schema["type"]
    low, high = (
        (schema.get("minimum"), schema.get("maximum"))
        if kind == "integer"
        else (schema.get("minLength"), schema.get("maxLength"))
    )
    unit = " characters" if kind == "string" else ""
    if low is None and high is None:
        return str(kind)
    if high is None:
        return f"{kind}, {low} or more"
    return f"{kind}, {low or 0:,}–{high:,}{unit}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo, str]]:
    hints = get_type_hints(model, include_extras=True)
    return [(name, info, type_of(_without_null(hints[name], info))) for name, info in model.model_fields.items()]


def _without_null(hint: Any, info: FieldInfo) -> Any:
    """The type of a field without `null`, if `null` is only the default of an omitted field."""
    if info.is_required() or info.default is not None:
        return hint
    alternatives = tuple(part for part in get_args(hint) if part is not type(None))
    return alternatives[0] if len(alternatives) == 1 and get_origin(hint) in (Union, types.UnionType) else hint


def _aliases(info: FieldInfo) -> str:
    if not isinstance(info.validation_alias, AliasChoices):
        return ""
    aliases = [f"`{name}`" for name in info.validation_alias.choices[1:]]
    return f"also named {', '.join(aliases)}"


def _bounds(info: FieldInfo) -> str:
    """The most items that a field may hold; the length of a text belongs to its type."""
    if get_origin(info.annotation) not in (dict, list):
        return ""
    limits = [limit for part in info.metadata if (limit := getattr(part, "max_length", None))]
    return f"at most {limits[0]:,}" if limits else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    if default is None:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


# -- parts of docs/protocol.md ---------------------------------------------------------------------------------------


def named_types() -> str:
    return _table(
        ["type", "is"],
        [[name, description or _limited(hint)] for name, (hint, description) in _NAMES.items()],
    )


def action_list() -> str:
    rows = []
    for action in registry():
        names = [f"[`{action.name}`](#{action.name}-action)", *(f"`{name}`" for name in action.aliases)]
        route = f"`{action.http}`" if action.http else ""
        rows.append([" ".join(names), action.summary, route, "yes" if action.live else "no"])
    return _table(["action", "does", "REST", "live"], rows)


def action_details() -> str:
    return "\n".join(_action(action) for action in registry())


def _action(action: Action) -> str:
    parts = [f"### {action.name} (action)\n", f"{action.description}\n"]
    if action.aliases:
        parts.append("Also named " + ", ".join(f"`{name}`" for name in action.aliases) + ".\n")
    fields = _fields(action.request)
    if fields:
        rows = [
            [f"`{name}`", kind, _default(info), _joined(_aliases(info), info.description, _bounds(info))]
            for name, info, kind in fields
        ]
        parts.append(_table(["payload", "type", "default", ""], rows))
        if issubclass(action.request, actions.RoomRef):
            parts.append("Exactly one of `room_id`, `topic_name` and `username`.\n")
        elif issubclass(action.request, actions.SubjectInRoom):
            parts.append("Exactly one of `room_id` and `topic_name`; `username` is the user it is about.\n")
    else:
        parts.append("No payload.\n")
    answers = "`{}`" if action.response is models.Empty else _link(action.response)
    if action.streams:
        answers = f"any number of {answers}, as JSON lines"
    parts.append(f"Answers {answers}.{' Not over a live connection.' if not action.live else ''}\n")
    if action.http:
        body = " without a body" if action.status == 204 else ""
        token = "; needs no token" if action.anonymous else ""
        parts.append(f"REST: `{action.http}` → {action.status}{body}{token}.\n")
    if errors := action.refusals:
        parts.append(_table(["error", "when"], [[f"`{code}`", reason] for code, reason in errors.items()]))
    return "\n".join(parts)


def event_list() -> str:
    rows = []
    for name, model in events.EVENTS.items():
        fields = ", ".join(f"`{field}`" for field in model.model_fields)
        payload = _link(model) if model is models.Message else f"{_link(model)}: {fields}"
        rows.append([f"`{name}`", payload])
    return _table(["event", "payload"], rows)


def model_list() -> str:
    linked: dict[type[BaseModel], None] = dict.fromkeys(events.EVENTS.values())
    linked |= dict.fromkeys(action.response for action in registry())
    for model in list(linked):
        _collect(model, linked)
    for action in registry():
        for hint in get_type_hints(action.request).values():
            _collect(hint, linked)
    linked.pop(models.Empty, None)
    linked[Error] = None
    return "\n".join(_model(model) for model in sorted(linked, key=lambda model: model.__name__))


def _collect(hint: Any, linked: dict[type[BaseModel], None]) -> None:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        linked[hint] = None
        for inner in get_type_hints(hint).values():
            _collect(inner, linked)
    for inner in get_args(hint):
        _collect(inner, linked)


def _model(model: type[BaseModel]) -> str:
    hints = get_type_hints(model, include_extras=True)
    rows = [[f"`{name}`", type_of(hints[name]), _description(info)] for name, info in model.model_fields.items()]
    description = "" if model.__doc__ is None else f"{' '.join(model.__doc__.split())}\n\n"
    return f"### {model.__name__}\n\n{description}{_table(['field', 'type', ''], rows)}"


def _description(info: FieldInfo) -> str:
    """A field's description, except that of a timestamp, which its type has."""
    return "" if info.description in (None, _TIMESTAMP.get("description")) else str(info.description)


def error_codes() -> str:
    return _table(
        ["code", "HTTP", "retryable", "when"],
        [[f"`{code}`", str(code.http_status), "yes" if code.retryable else "no", code.meaning] for code in ErrorCode],
    )


def close_reasons() -> str:
    meaning: Mapping[CloseReason, str] = {
        CloseReason.SLOW_CONSUMER: "you do not read, and the data that waits for you has reached its limit",
        CloseReason.TOKEN_EXPIRED: "the token's `exp` has passed: get a fresh token, then connect",
        CloseReason.TOKEN_REVOKED: "the session was withdrawn: sign in again",
        CloseReason.SHUTDOWN: "the server stops, or could not finish the replay",
        CloseReason.REPLACED: "the same device, or user, has opened too many newer connections",
        CloseReason.PROTOCOL_ERROR: "a packet that is not Socket.IO; over `/ws`, a frame that is too large",
    }
    return _table(
        ["reason", "reconnect", "why", "close code on `/ws`"],
        [
            [
                f"`{reason}`",
                "yes" if reason.reconnect else "no",
                meaning[reason],
                str(CLOSE_CODES[reason]),
            ]
            for reason in CloseReason
        ],
    )


def permissions() -> str:
    columns = list(Permission)
    rows: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for title, kind, is_private in _KINDS:
        assert (kind, is_private) in WITHOUT
        for role in (None, *reversed(Role)):
            if kind is RoomKind.DIRECT and role not in (None, Role.MEMBER):
                continue  # both are members
            cells = tuple(_permission_cell(kind, is_private, role, False, permission) for permission in columns)
            rows.setdefault((title, cells), []).append("not a member" if role is None else str(role))
        if not is_private:
            cells = tuple(_permission_cell(kind, is_private, None, True, permission) for permission in columns)
            rows.setdefault((title, cells), []).append("banned")
    return _table(
        ["room", "you are", *(f"{permission}" for permission in columns)],
        [[title, ", ".join(roles), *cells] for (title, cells), roles in rows.items()],
    )


def _permission_cell(
    kind: RoomKind, is_private: bool, role: Role | None, banned: bool, permission: Permission
) -> str:
    if role is None and permission in ON_A_MESSAGE:
        return f"`{ErrorCode.NOT_FOUND}`"
    refused = refusal(kind, is_private, role, banned, permission)
    return "yes" if refused is None else f"`{refused.code}`"


def limits() -> str:
    """The rates and quotas are the defaults of the settings."""
    rows = [
        *_limits_of_requests(),
        *_limits_of_connections(),
        *_rates_of_users(),
        *_limits_of_storage(),
        *_rates_of_sign_ins(),
        *_limits_of_events(),
    ]
    return _table(["limit", "value", "beyond it"], rows)


Row = Sequence[str]


def _rated(limit: str, value: str) -> Row:
    return [limit, value, "`rate_limited`"]


def _limits_of_requests() -> list[Row]:
    """The sizes of a request, an answer and a message."""
    return [
        ["one packet or polling body", f"{socketio_server.MAX_PAYLOAD:,} bytes", "the connection is closed"],
        [
            "attachments of one packet",
            f"{socketio_server.MAX_ATTACHMENTS}, within {socketio_server.ATTACHMENTS_S:g} s",
            "the connection is closed",
        ],
        ["a REST body", f"{rest.MAX_BODY:,} bytes", "`too_large`"],
        [
            "values in one packet, frame or body; commas and brackets count, also within strings",
            f"{input_limits.MAX_VALUES:,}",
            "`invalid`; over Socket.IO the connection is closed",
        ],
        ["packets in one polling body", f"{engine_session.MAX_PACKETS:,}", "the connection is closed"],
        ["parameters of a query string", f"{input_limits.MAX_PARAMETERS}", "`invalid`"],
        ["fields that an error names", f"{validation.MAX_WRONG_FIELDS}", "the others are not named"],
        [
            "contents in one page of messages, rooms, search or echo",
            f"about {actions.MAX_PAGE_BYTES:,} bytes",
            "the page has fewer than `limit`; `has_more` or `next` says that there are more",
        ],
        [
            "usernames in the answer of `connect_to_room`",
            f"{context.MAX_ONLINE}",
            "`get_members` has all, in pages",
        ],
        [
            "words with an `@` that are checked in one message",
            f"{names.MAX_MENTIONS}, up to its {names.MAX_MARKS}th `@` or run of backticks",
            "no mention",
        ],
        ["`content`", f"{actions.MAX_CONTENT:,} characters", "`too_large`"],
        ["members of a group", f"{actions.MAX_GROUP}", "`too_large`"],
        [
            "different emojis, and reactions, on one message",
            f"{messages.MAX_EMOJIS}, and {messages.MAX_REACTIONS:,}",
            "`too_large`",
        ],
        ["rooms in one `cursors`", f"{actions.MAX_CURSORS:,}", "`invalid`"],
    ]


def _limits_of_connections() -> list[Row]:
    """The number of connections, the time of each phase of a connection, and what may wait in it."""
    return [
        [
            "actions of a connection without an answer",
            f"{action_queue.MAX_IN_FLIGHT:,}, {action_queue.MAX_WAITING_BYTES:,} bytes",
            "`rate_limited`",
        ],
        [
            "waiting for a client that does not read",
            f"{buffered_session.MAX_BUFFERED:,} bytes",
            "`slow_consumer`",
        ],
        [
            "from opening to CONNECT, or `authenticate`",
            f"{socketio_server.CONNECT_TIMEOUT_S:g} s",
            "the connection is closed",
        ],
        [
            "`/ws`: requests before the token is verified",
            f"{client_session.MAX_EARLY:,}, {client_session.MAX_EARLY_BYTES:,} bytes",
            "`rate_limited`, the connection is closed",
        ],
        [
            "connections without authentication and without a good token in the address",
            f"{admission.MAX_HALF_OPEN:,}; {node.HALF_OPEN_PER_SOURCE:,} of an IPv4 address or IPv6 /64",
            "the oldest, of the source with the most, is closed",
        ],
        [
            "TCP connections of one source that is not a trusted proxy",
            f"{tcp_connections.MAX_PER_SOURCE:,}",
            "HTTP 503, or none",
        ],
        [
            "a request line and headers",
            f"{uvicorn_server.HEAD_S:g} s, {uvicorn_server.MAX_HEAD:,} bytes, {uvicorn_server.MAX_HEADERS} headers",
            "HTTP 408, 431, or none for a connection that sends nothing",
        ],
        [
            "a body",
            f"{uvicorn_server.BODY_S:g} s; one of a polling session at once",
            "HTTP 408; the session ends",
        ],
        ["a REST body of a request without a token", f"{rest.MAX_ANONYMOUS_BODY:,} bytes", "`too_large`"],
        ["the address of a WebSocket", f"{uvicorn_server.MAX_LINE:,} bytes", "HTTP 414"],
        [
            "a WebSocket message, from its first byte to its last",
            f"{websocket_wire.MESSAGE_S:g} s, more if it arrives at {tcp_connections.SLOWEST:,} bytes a second;"
            f" {websocket_frames.MAX_FRAGMENTS:,} fragments",
            "the connection is closed",
        ],
        [
            "PINGs and PONGs of a WebSocket",
            f"{websocket_wire.MAX_CONTROL_FRAMES:,} within {websocket_wire.CONTROL_FRAMES_S:g} s",
            "the connection is closed, with 1008",
        ],
        [
            "an unread HTTP answer",
            f"{tcp_connections.STALLED_S:g} s, more if it is read at {tcp_connections.SLOWEST:,} bytes a second",
            "the connection is closed",
        ],
        [
            "refused CONNECTs of a session",
            f"2 (of unknown namespaces {socketio_server.MAX_REFUSED})",
            "the connection is closed",
        ],
        [
            "connections of one device, and of one user, to one node",
            f"{hub.CONNECTIONS_PER_DEVICE}, and {hub.CONNECTIONS_PER_USER}",
            "the oldest is closed: `replaced`",
        ],
    ]


def _rates_of_users() -> list[Row]:
    """The rates of a signed-in user."""
    kinds = {kind: [f"`{action.name}`" for action in registry() if action.limit is kind] for kind in Limit}
    return [
        *(
            _rated(f"rate `{kind}`: {', '.join(names)}", f"{RATES[kind]} by a user")
            for kind, names in kinds.items()
            if names
        ),
        [
            "a send for each so many characters that it carries to others",
            f"{context.SEND_SIZE:,}",
            "it counts once more in the rate `sends`",
        ],
        _rated(
            f"rate `volume`: bytes kept of messages, edits, reactions and echo, and {context.ENTRY_BYTES} for each",
            f"{RATES['volume']} by a user",
        ),
        _rated(
            "groups, direct conversations that a first message makes: in the rate `rooms`",
            f"{RATES['rooms']} by a user",
        ),
        _rated(
            "rate `conflicts`: attempts of a user to create a topic under the name of another user's private topic;"
            " attempts from one address to register a taken name",
            RATES["conflicts"],
        ),
        _rated("rate `invites`: rooms that one user adds the same other user to", RATES["invites"]),
        ["rate `connects`: connections that open", f"{RATES['connects']} by a user", "refused: `rate_limited`"],
        [
            "rate `devices`: devices named for the first time",
            f"{RATES['devices']} by a user",
            "refused: `rate_limited`",
        ],
    ]


def _limits_of_storage() -> list[Row]:
    """The data that is kept of a user."""
    days = {name: info.default for name, info in Settings.model_fields.items()}
    return [
        [
            "quota `devices`: devices kept of a user",
            f"{QUOTAS['devices']:,}",
            "the one unseen for longest, of those that are not connected, is deleted: it returns as a new one",
        ],
        ["quota `sessions`: sessions of a user", f"{QUOTAS['sessions']:,}", "the oldest ends: `token_revoked`"],
        [
            "quota `rooms`: rooms that a user is in",
            f"{QUOTAS['rooms']:,}",
            "`too_large`, also for invitations of them",
        ],
        [
            "quotas `topics` and `groups`: those that a user owns",
            f"{QUOTAS['topics']:,}, and {QUOTAS['groups']:,}",
            "`too_large`",
        ],
        [
            "bytes of one file, and quota `files`: bytes of all files of a user",
            f"{days['file_bytes']:,}, and {QUOTAS['files']:,}",
            "`too_large`",
        ],
        ["quota `links`: invitation links by one user into one room", f"{QUOTAS['links']:,}", "`too_large`"],
        [
            "devices that are not seen any more, and sessions that have ended",
            f"{days['purge_devices_days']} days, and {days['purge_sessions_days']} days",
            "they are deleted; a returning device is a new one",
        ],
        [
            "quota `echo_entries`: entries of a user's echo log",
            f"{QUOTAS['echo_entries']:,}",
            "the oldest go, some minutes later",
        ],
    ]


def _rates_of_sign_ins() -> list[Row]:
    """The rates of an address, and those of an account from any address."""
    per_account, _ = rate(RATES["logins"])
    return [
        _rated("rate `registrations`: registrations from one address", RATES["registrations"]),
        _rated(
            "rate `logins`: attempts to sign in to one account from an address that has signed in to it before",
            RATES["logins"],
        ),
        _rated(
            "rate `logins`: attempts on one account from all other addresses, half of them the first of an address in"
            " a day",
            RATES["logins"],
        ),
        _rated(
            f"{attempts.SOURCE_FACTOR} times the rate `logins`: attempts from one address on accounts that it has not"
            " signed in to before",
            RATES["logins"].replace(str(per_account), str(attempts.SOURCE_FACTOR * per_account)),
        ),
        _rated("rate `logins`: password confirmations of one session", RATES["logins"]),
    ]


def _limits_of_events() -> list[Row]:
    """The room sizes up to which events are sent."""
    return [
        ["`typing` without renewal", f"{typing.TYPING_S:g} s", "it ends by itself"],
        ["members of a public topic", f"{member_events.MEMBER_EVENTS_UP_TO}", "no `member` events"],
        [
            "members of a room",
            f"{cursors.RECEIPT_MEMBERS}",
            "no `receipt` events of others, `get_receipts` is empty",
        ],
    ]


# -- the settings ----------------------------------------------------------------------------------------------------

_MAIN: Final = (
    "host",
    "port",
    "data_dir",
    "database_url",
    "redis_url",
    "workers",
    "secret_key",
    "public_url",
    "cors_origins",
    "retention_topic_days",
    "rates",
    "metrics_token",
)
"""The settings in README.md."""


def settings() -> str:
    return _settings_table(_settings())


def main_settings() -> str:
    by_variable = {setting[0]: setting for setting in _settings()}
    return _settings_table(by_variable[_variable(name)] for name in _MAIN)


def _settings_table(settings: Iterable[tuple[str, str, str]]) -> str:
    rows = [[f"`{name}`", f"`{default}`" if default else "", description] for name, default, description in settings]
    return _table(["setting", "default", ""], rows)


def _variable(setting: str) -> str:
    """The environment variable of a setting."""
    return f"{Settings.model_config['env_prefix']}{setting.upper()}"


def _settings() -> Iterator[tuple[str, str, str]]:
    """For each setting: its environment variable, its default there, and its description."""
    for name, info in Settings.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if isinstance(default, bool):
            default = str(default).lower()
        text = "" if default in ("", []) else str(default)
        yield _variable(name), text, info.description or ""


def example_settings() -> str:
    """`.env.example`: every setting, commented out."""
    lines = [
        "# Every setting with its default. Copy this file to `.env`, in the working directory of the server, and"
    ]
    lines += ["# remove the `#` before each setting to change. Generated by `make docs`."]
    for name, default, description in _settings():
        lines += [
            "",
            *textwrap.wrap(description, 118, initial_indent="# ", subsequent_indent="# "),
            f"#{name}={default}",
        ]
    return "\n".join(lines) + "\n"


# -- writing ---------------------------------------------------------------------------------------------------------

PARTS: Final[dict[str, Callable[[], str]]] = {
    "action_details": action_details,
    "action_list": action_list,
    "close_reasons": close_reasons,
    "error_codes": error_codes,
    "event_list": event_list,
    "limits": limits,
    "main_settings": main_settings,
    "model_list": model_list,
    "named_types": named_types,
    "permissions": permissions,
    "scaling_checks": scaling.checks_table,
    "scaling_constants": scaling.constants_table,
    "scaling_extrapolation": scaling.extrapolation_table,
    "scaling_idle": scaling.idle_summary,
    "scaling_summary": scaling.summary,
    "settings": settings,
}


def pages() -> list[Path]:
    """The documents; each may hold generated parts."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def render(text: str) -> str:
    """A page with its parts generated anew. Raises `KeyError` for an unknown part."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}{part[3]}", text)


def is_stale(path: Path) -> bool:
    """Whether a page, the plot or `.env.example` differs from what the code generates."""
    return not path.exists() or path.read_text("utf-8") != _generated(path)


def _generated(path: Path) -> str:
    if path == EXAMPLE:
        return example_settings()
    return scaling.plot() if path == scaling.PLOT else render(path.read_text("utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="Generate parts of the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a part is stale")
    check: bool = parser.parse_args(arguments).check
    stale = [path for path in (*pages(), EXAMPLE, scaling.PLOT) if is_stale(path)]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'stale; run make docs' if check else 'generated'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_generated(path), "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
