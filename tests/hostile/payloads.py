"""Hostile requests: valid ones in which one value at a time is replaced by a more expensive one.

They are JSON texts, because some have no Python value and others take long to encode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from tidings.actions.dispatch import Action
from tidings.gateways.schemas import Schemas

Attack = tuple[str, str]
"""A description, and the JSON text."""

_HOLE: Final = "\x00here\x00"
_STRINGS: Final = ("\ufdfa", "İ", "ｱﾞ", "a\u0301\u0316", "سلا.")


def of_action(action: Action, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A payload of an action, valid as far as `known` values make it so, and one with all its fields."""
    schemas = Schemas(received=[action.request])
    schema = schemas.of(action.request)
    right = schemas.example(schemas.ref(action.request))
    full = {name: schemas.example(its, name) for name, its in schema.get("properties", {}).items()}
    return {name: known.get(name, value) for name, value in right.items()}, full


def of_fields(action: Action, known: Mapping[str, Any], budget: int) -> Iterator[Attack]:
    """Payloads of ordinary JSON: each text and number replaced by an expensive one, alone and all together."""
    right, full = of_action(action, known)
    for name, value in right.items():
        for kind, worse in _worse(value, budget - 500, _longest(action, name)):
            yield f"{name}: {kind}", _with(right, (name,), worse)
    for piece in _STRINGS if full else ():
        length = min(300, budget // 16 // (len(full) + 1))
        yield f"all of {piece!r}", json.dumps(dict.fromkeys(full, (piece * length)[:length]), ensure_ascii=False)
    filled = json.dumps(dict(right))[1:-1]
    for kind, text in islice(_fields(budget - len(filled) - 10), 3):
        yield f"unknown fields: {kind}", "{" + ",".join(filter(None, (filled, text))) + "}"


def _longest(action: Action, name: str) -> int:
    """The maximum number of characters of a text field."""
    schema = Schemas(received=[action.request]).of(action.request)["properties"].get(name, {})
    limits = [part["maxLength"] for part in (schema, *schema.get("anyOf", ())) if "maxLength" in part]
    return min([*limits, 16_384])


def of_json(right: Mapping[str, Any], budget: int) -> Iterator[Attack]:
    """Variations of the whole object and of its first value that take long to decode."""
    budget -= len(json.dumps(right))
    for path in ((), *((name,) for name in list(right)[:1])):
        for kind, text in _structures(budget):
            yield f"{'.'.join(path) or 'the whole'}: {kind}", _with(right, path, text)


def _with(value: Any, path: tuple[str | int, ...], text: str) -> str:
    """The JSON text of a value, with `text` at a path."""
    return json.dumps(_put(value, path)).replace(json.dumps(_HOLE), text, 1)


def _put(value: Any, path: tuple[str | int, ...]) -> Any:
    if not path:
        return _HOLE
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = _put(value[path[0]], path[1:])
    return copy


def _structures(budget: int) -> Iterator[Attack]:
    yield "deep arrays", "[" * (budget // 2) + "]" * (budget // 2)
    yield "deep objects", '{"a":' * (budget // 6) + "1" + "}" * (budget // 6)
    yield "many numbers", "[" + ",".join("0" for _ in range(budget // 2 - 1)) + "]"
    yield "many arrays", "[" + ",".join("[]" for _ in range(budget // 3 - 1)) + "]"
    yield "as many arrays as are taken", "[" + ",".join("[]" for _ in range(min(budget // 3, 16_000))) + "]"
    yield "many objects", "[" + ",".join("{}" for _ in range(budget // 3 - 1)) + "]"
    yield "many texts", "[" + ",".join('"x"' for _ in range(budget // 4 - 1)) + "]"
    yield "large numbers", "[" + ",".join("9" * 4000 for _ in range(budget // 4001)) + "]"
    yield "some large numbers", "[" + ",".join("9" * 4000 for _ in range(min(15, budget // 4001))) + "]"
    yield "one large number", "9" * (budget // 2)
    yield "surrogates", '"' + "\\ud800" * (budget // 6) + '"'
    yield "escapes", '"' + "\\u0001" * (budget // 6) + '"'
    yield "a long text", '"' + "x" * (budget - 2) + '"'
    yield "a long text beyond ASCII", '"' + "é" * (budget // 2 - 2) + '"'
    yield "not JSON", "[" + "0," * (budget // 2 - 2)
    for kind, text in _fields(budget):
        yield kind, "{" + text + "}"


def _worse(value: Any, budget: int, longest: int) -> Iterator[Attack]:
    yield "a large number", "9" * 4000
    yield "a long text", '"' + "x" * (budget // 2) + '"'
    if isinstance(value, str):
        for piece in _STRINGS:
            text = json.dumps((piece * longest)[:longest], ensure_ascii=False)
            if len(text.encode()) <= budget:
                yield f"{piece!r} for {longest} characters", text
    elif isinstance(value, Sequence):
        for many in (255, 1000):
            for piece in _STRINGS:
                length = min(250, budget // many // 4)
                texts = [str(at) + (piece * length)[:length] for at in range(many)]
                yield f"{many} of {piece!r}", json.dumps(texts, ensure_ascii=False)
        yield "many numbers", json.dumps([0] * min(30_000, budget // 3))
    elif isinstance(value, Mapping):
        number = min(10_000, budget // 40)
        yield f"{number} entries", json.dumps({f"{at:024}": at for at in range(number)})
        yield f"{number} wrong entries", json.dumps({f"{at:024}": -1 for at in range(number)})
        yield f"{number} strange entries", json.dumps({f"{at:024}\x00": [] for at in range(number)})


def _fields(budget: int) -> Iterator[Attack]:
    """The fields of an object, without its braces."""
    number = min(budget // 10, 30_000)
    yield f"{number} fields", ",".join(f'"{at:05}":1' for at in range(number))
    number = budget // 10
    yield f"{number} fields", ",".join(f'"{at:05}":1' for at in range(number))
    yield "10 fields of long names", ",".join(f'"{at:02}{"x" * (budget // 10 - 10)}":1' for at in range(10))
    yield "fields of strange names", ",".join(f'"{at}{"ﷺ" * 100}":1' for at in range(budget // 320))
    yield "one field again and again", ",".join('"x":1' for _ in range(budget // 6))


def worse_values(right: Mapping[str, Any], budget: int) -> Iterator[Attack]:
    """Variations of an object by each of its texts and lists, also within its objects."""
    for name, value in right.items():
        if isinstance(value, Mapping):
            for kind, text in worse_values(value, budget):
                yield f"{name}.{kind}", _with(right, (name,), text)
        else:
            for kind, text in _worse(value, budget - len(json.dumps(right)), 16_384):
                yield f"{name}: {kind}", _with(right, (name,), text)
