"""Limits on the number of values in a message, because decoding time depends on values more than on bytes."""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

import orjson

MAX_VALUES: Final = 32_768
"""More than three times as many as any action needs."""
MAX_MAP: Final = 10_240
"""The most keys of one msgpack map; `cursors` may have 10,000."""

MAX_PARAMETERS: Final = 100
"""The most parameters of a query string, several times as many as any route has."""

C = TypeVar("C", list[Any], dict[Any, Any])


def holds_too_many(text: str | bytes) -> bool:
    """Whether a JSON text may hold more than `MAX_VALUES`, without decoding it.

    Commas and brackets within its strings count too; a text of no more than `MAX_VALUES` characters never does.
    """
    if len(text) <= MAX_VALUES:
        return False
    if isinstance(text, bytes):
        return text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES
    return text.count(",") + text.count("[") + text.count("{") > MAX_VALUES


def parameters(query_string: bytes, *, blank: bool = False) -> dict[str, str]:
    """The first value of each parameter of a query string; without `blank`, only of those with a value.

    Empty if there are more than `MAX_PARAMETERS`.
    """
    if query_string.count(b"&") >= MAX_PARAMETERS:
        return {}
    parsed = parse_qs(query_string.decode("latin-1"), keep_blank_values=blank)
    return {name: values[0] for name, values in parsed.items()}


class _Count:
    """Counts the values of lists and maps as they are decoded. Raises `ValueError`."""

    def __init__(self) -> None:
        self._values = 0

    def __call__(self, decoded: C) -> C:
        self._values += 1 + len(decoded)
        if self._values > MAX_VALUES:
            raise ValueError("too many values")
        return decoded


def msgpack_bounds(encoded: bytes) -> dict[str, Any]:
    """Options for `msgpack.loads`, which raises `ValueError` for more than `MAX_VALUES`."""
    if len(encoded) <= MAX_MAP:
        return {}
    count = _Count()
    return {"max_array_len": MAX_VALUES, "max_map_len": MAX_MAP, "list_hook": count, "object_hook": count}


MAX_EXPLAINED = 65_536
"""The longest JSON text that is decoded again with the slower standard library to explain an error."""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


class BoundedJson:
    """orjson, with the standard library for texts that orjson refuses but a field's validation can explain."""

    @staticmethod
    def dumps(value: object, **_options: Any) -> str:
        try:
            return orjson.dumps(value).decode()
        except TypeError:  # from an application: large integers, keys that are not strings
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    @staticmethod
    def loads(text: str) -> Any:
        if holds_too_many(text):
            raise ValueError("too many values")
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            if len(text) > MAX_EXPLAINED:
                raise
            try:
                return json.loads(text, parse_constant=_no_constant)
            except RecursionError:
                raise ValueError("nested too deeply") from None
