"""A dialect's HTTP routes: what serves each and describes it, and the schemas of their answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidings.contract.errors import ErrorCode

if TYPE_CHECKING:
    from tidings.gateways.schemas import Schema

FORM: Final = "application/x-www-form-urlencoded"
PASSWORD_FLOW: Final = "/login"
"""The path that returns a token for a username and password in a form (`dialects.channels`)."""

TEXT: Final[Schema] = {"type": "string"}
SECONDS: Final[Schema] = {"type": "integer", "minimum": 0}
TIME: Final[Schema] = {"type": "string", "examples": ["2026-01-31T09:30:00.250Z"]}
ID: Final[Schema] = {"type": "string", "examples": ["01KG9J8J3A7X2V5C9DPN4TRW0E"]}
NAME: Final[Schema] = {"type": "string", "examples": ["omar"]}
TOKEN: Final[Schema] = {"type": "string", "description": "A JWT"}


def record(**properties: Schema) -> Schema:
    """The schema of an object with exactly these fields."""
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


class Tag(NamedTuple):
    """A group of routes in the OpenAPI document."""

    name: str
    description: str


@dataclass(frozen=True, kw_only=True)
class DialectRoute:
    """One HTTP route of a dialect: it is served and described from this.

    Args:
        serve: returns the data of the answer.
        path, query, body: name of a field -> the field of a canonical action, "action.field".
        one_of: fields of the body of which exactly one is given.
        optional: fields of the body that may be left out.
        actions: actions whose errors this route can return.
        errors: further errors.
        form: whether the body may be a form, as in OAuth2.
        keyed: whether it accepts the header `Idempotency-Key`.
        token: the field of the answer that is a token; empty: none.
    """

    http: str
    name: str
    tag: Tag
    summary: str
    serve: Callable[..., Awaitable[Any]]
    answer: Schema
    status: int = 200
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, str] = field(default_factory=dict)
    one_of: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    errors: tuple[ErrorCode, ...] = ()
    anonymous: bool = False
    form: bool = False
    keyed: bool = False
    token: str = ""
    envelope: str = ""
    """The `Message` of answers that are `{Message, Data}`, as refusals are then; empty: neither is."""

    @property
    def method(self) -> str:
        return self.http.partition(" ")[0]

    @property
    def url(self) -> str:
        return self.http.partition(" ")[2]
