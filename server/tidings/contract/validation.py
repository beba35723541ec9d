"""Validation of payloads and the errors that explain a failure, both in bounded time for any payload."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final, TypeVar

from pydantic import AliasChoices, ValidationError

from tidings.contract.actions import Payload
from tidings.contract.errors import ActionError, Error, ErrorCode

P = TypeVar("P", bound=Payload)
MAX_WRONG_FIELDS: Final = 20
"""The most fields that one error names."""
MAX_NAME: Final = 64
"""Characters of an unknown field's or action's name that an error repeats."""


def field_names(model: type[Payload]) -> frozenset[str]:
    """All names that the fields of a payload may have, with their aliases."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        alias = field.validation_alias
        names |= set(map(str, alias.choices)) if isinstance(alias, AliasChoices) else {str(alias)} if alias else set()
    return frozenset(names)


def validate(
    model: type[P], names: Collection[str], raw: object, *, strict: bool, action_names: Collection[str] = ()
) -> P:
    """Validate a raw payload. Raises `ActionError` or `ValidationError`.

    Args:
        names: the `field_names` of the model. A payload with more fields is refused before its values are validated.
        action_names: a field `action` with one of these values is ignored: a client of the topics protocol may send
            its whole frame as the payload of the action.
    """
    if type(raw) is dict or isinstance(raw, Mapping):  # the second is slow
        if len(raw) <= len(names) + 1 and raw.get("action") in action_names:
            raw = {name: value for name, value in raw.items() if name != "action"}
        if len(raw) > len(names):
            unknown = islice((name for name in raw if name not in names), MAX_WRONG_FIELDS)
            raise _invalid({printable(name): "Extra inputs are not permitted" for name in unknown})
    return model.model_validate({} if raw is None else raw, strict=strict)


def explain(error: ValidationError) -> Error:
    """The error for a failed validation: `invalid` with a reason per field, or `too_large` for a long text."""
    fields: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False):
        if problem["type"] == "string_too_long" and problem["loc"] in (("content",), ("text",)):
            limit = problem["ctx"]["max_length"]
            message = f"{problem['loc'][0]} has more than {limit} characters"
            return ActionError(ErrorCode.TOO_LARGE, message, limit=limit).error
        if len(fields) < MAX_WRONG_FIELDS:
            path = (printable(str(part)) for part in problem["loc"] if part != "function-after")
            fields.setdefault(".".join(path) or "payload", problem["msg"].removeprefix("Value error, "))
    return _invalid(fields).error


def _invalid(fields: dict[str, str]) -> ActionError:
    summary = "; ".join(f"{field}: {reason}" for field, reason in fields.items())
    return ActionError(ErrorCode.INVALID, summary, fields=fields)


def printable(name: object) -> str:
    """A name from a request, shortened and valid in UTF-8: JSON may contain a lone surrogate, an answer must not."""
    shown = (name if isinstance(name, str) else type(name).__name__)[:MAX_NAME]
    return shown.encode("utf-8", "replace").decode()
