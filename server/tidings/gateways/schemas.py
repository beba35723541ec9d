"""The JSON Schemas of the contract's models, with examples; used by all generated documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tidings.actions.dispatch import Action
from tidings.contract.errors import Error, ErrorCode
from tidings.contract.examples import EXAMPLES

REF: Final = "#/components/schemas/{model}"
Schema = dict[str, Any]

ALWAYS: Final = (ErrorCode.INVALID, ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)
"""Errors that any action may return, in addition to its own."""
_TEXT = "…"


class Schemas:
    """The schemas of some models, and of the models in their fields."""

    def __init__(self, *, received: Iterable[type[BaseModel]] = (), sent: Iterable[type[BaseModel]] = ()) -> None:
        """
        Args:
            received: models that the server receives.
            sent: models that it sends, in which every field is present.
        """
        modes: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {}
        modes |= {(model, "validation"): None for model in received}
        modes |= {(model, "serialization"): None for model in sent}
        names, definitions = models_json_schema(list(modes), ref_template=REF)
        self.components: dict[str, Schema] = dict(definitions.get("$defs", {}))
        """By name. They refer to each other by `REF`."""
        self._refs = {model: schema for (model, _), schema in names.items()}

    def ref(self, model: type[BaseModel]) -> Schema:
        """A reference to a model's schema."""
        return dict(self._refs[model])

    def of(self, model: type[BaseModel]) -> Schema:
        """A model's schema."""
        return self.resolve(self._refs[model])

    def resolve(self, schema: Schema) -> Schema:
        """The target of a reference; any other schema is returned unchanged."""
        return self.components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def example(self, schema: Schema, name: str = "") -> Any:
        """An example value of a schema, for a field of that name.

        The example of an object has the required fields, those with an example of their own, and the `topic_name` of
        a room reference.
        """
        if "examples" in schema:
            return schema["examples"][0]
        if name in EXAMPLES:
            return EXAMPLES[name]
        schema = self.resolve(schema)
        if "examples" in schema:
            return schema["examples"][0]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "default" in schema:
            return schema["default"]
        if "anyOf" in schema:
            return self.example(schema["anyOf"][0], name)
        match schema.get("type"):
            case "object" if "properties" in schema:
                shown = {*schema.get("required", ()), *({"topic_name"} & set(exactly_one(schema)))}
                return {
                    field: self.example(field_schema, field)
                    for field, field_schema in schema["properties"].items()
                    if field in shown or "examples" in field_schema
                }
            case "array":
                return [self.example(schema["items"])]
            case "boolean":
                return False
            case "integer":
                return schema.get("minimum", 1)
            case "object":
                return {}
            case "null":
                return None
            case _:
                return _TEXT


def exactly_one(schema: Schema) -> list[str]:
    """The fields of which exactly one must be given; empty without such a rule."""
    return [rule["required"][0] for rule in schema.get("oneOf", ()) if "required" in rule]


def errors(action: Action) -> dict[ErrorCode, str]:
    """All errors of an action, with their reasons."""
    general = set(ALWAYS)
    if not action.anonymous or action.personal:
        general |= {ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED}
    if action.request.model_fields:
        general |= {ErrorCode.TOO_LARGE}
    own = action.refusals
    return {
        code: "; ".join(filter(None, [code.meaning if code in general else "", own.get(code, "")]))
        for code in ErrorCode
        if code in general or code in own
    }


def example_error(code: ErrorCode) -> Error:
    """An example of an error with that code."""
    details: dict[ErrorCode, dict[str, Any]] = {
        ErrorCode.INVALID: {"fields": {"topic_name": "Field required"}},
        ErrorCode.TOO_LARGE: {"limit": 16384},
        ErrorCode.RATE_LIMITED: {"retry_after": 30},
        ErrorCode.INTERNAL: {"request_id": "9f86d081884c7d65"},
    }
    return Error(code=code, message=code.meaning, details=details.get(code, {}), retryable=code.retryable)
