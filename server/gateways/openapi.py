"""The OpenAPI 3.1 document, made from the registry."""

from __future__ import annotations

import re
from typing import Any

from server import __version__
from server.contract.errors import Error, ErrorCode
from server.dispatch import Action, Registry
from server.gateways import schemas
from server.gateways.rest import IDEMPOTENCY_KEY, JSON_LINES, KEY_PATTERN, problem_details
from server.gateways.schemas import REF, Schema, Schemas

PASSWORD_FLOW = "/login"
"""Where a username and a password in a form are answered with a token (`dialects.channels`)."""


def document(registry: Registry) -> dict[str, Any]:
    """Every route of the registry, with its payload, its answer, its errors and an example of each."""
    routed = [action for action in registry if action.http is not None]
    known = Schemas(
        taken=[action.request for action in routed], given=[*(action.response for action in routed), Error]
    )
    paths: dict[str, Any] = {}
    for action in routed:
        assert action.http is not None
        method, path = action.http.split(" ", 1)
        paths.setdefault(path, {})[method.lower()] = _operation(action, method, path, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "A message server where an acknowledged message arrives. What it pushes, and the same"
            " actions over a live connection: [AsyncAPI](/asyncapi.json).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "Where this document is from"}],
        "tags": tags(routed),
        "paths": paths,
        "components": {
            "schemas": known.components | {"Problem": _problem(known.of(Error))},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The `token` of `register`, `login` or `refresh`",
                },
                "password": {
                    "type": "oauth2",
                    "flows": {"password": {"tokenUrl": PASSWORD_FLOW, "scopes": {}}},
                    "description": "The same, by username and password (RFC 6749, section 4.3)",
                },
            },
        },
    }


def tags(actions: list[Action]) -> list[dict[str, str]]:
    """The nouns that actions are grouped by."""
    return [{"name": noun} for noun in sorted({action.noun for action in actions})]


def _problem(error: Schema) -> Schema:
    """RFC 9457, with the members of the contract's `Error`."""
    properties = {name: schema for name, schema in error["properties"].items() if name != "message"}
    return {
        "type": "object",
        "title": "Problem",
        "description": "Problem details (RFC 9457), with the error's `code`, `details` and `retryable`.",
        "required": ["type", "title", "status", "detail", *properties],
        "additionalProperties": False,
        "properties": {
            "type": {"type": "string", "format": "uri", "description": "`urn:tidings:error:` and the code"},
            "title": {"type": "string", "description": "What the code means"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "For people; may change. Programs go by `code`."},
            **properties,
        },
    }


def _operation(action: Action, method: str, path: str, known: Schemas) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)}", path)
    request = known.of(action.request)
    properties: dict[str, Schema] = request.get("properties", {})
    description = action.description
    parameters = [_parameter("path", name, properties[name], known, required=True) for name in in_path]
    operation: dict[str, Any] = {"operationId": action.name, "tags": [action.noun], "summary": action.summary}
    if method in ("GET", "DELETE"):
        example = known.example(request)
        parameters += [
            _parameter(
                "query", name, schema, known, required=name in request.get("required", ()), shown=name in example
            )
            for name, schema in properties.items()
            if name not in in_path
        ]
        if one_of := schemas.exactly_one(request):
            description += f"\n\nExactly one of {', '.join(f'`{name}`' for name in one_of)}."
    elif properties:
        content = {"schema": _body(action, request, in_path, known), "example": known.example(request)}
        for name in in_path:
            content["example"].pop(name, None)
        needed = bool(set(request.get("required", ())) - set(in_path)) or "oneOf" in request
        operation["requestBody"] = {"required": needed, "content": {"application/json": content}}
    if "client_id" in properties:
        parameters.append(_idempotency_key())
    operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = _responses(action, known)
    operation["security"] = [] if action.anonymous else [{"bearer": []}, {"password": []}]
    return operation


def _body(action: Action, request: Schema, in_path: list[str], known: Schemas) -> Schema:
    """The payload's schema, without what stands in the path."""
    if not in_path:
        return known.ref(action.request)
    left = {name: schema for name, schema in request["properties"].items() if name not in in_path}
    required = [name for name in request.get("required", ()) if name not in in_path]
    return {**request, "title": f"{request['title']}Body", "properties": left, "required": required}


def _parameter(
    where: str, name: str, schema: Schema, known: Schemas, *, required: bool, shown: bool = True
) -> dict[str, Any]:
    """A field in the path or the query string, where `null` cannot be said; `shown`: it has an example."""
    parameter: dict[str, Any] = {"name": name, "in": where, "required": required}
    if "description" in schema:
        parameter["description"] = schema["description"]
    kinds = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if len(kinds) == 1:
        kept = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = kinds[0] | kept if "$ref" not in kinds[0] else dict(kinds[0])
    schema = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    parameter["schema"] = schema
    if shown:
        parameter["example"] = known.example(schema, name)
    return parameter


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "required": False,
        "description": "Stands for `client_id`: with the same key it takes effect once, however often it is sent."
        " 1–64 visible ASCII characters; if `client_id` is given too, the same.",
        "schema": {"type": "string", "pattern": KEY_PATTERN},
    }


def _responses(action: Action, known: Schemas) -> dict[str, Any]:
    succeeded: dict[str, Any] = {"description": "Done"}
    if action.status != 204:
        example = known.example(known.of(action.response))
        succeeded["content"] = {
            JSON_LINES if action.streams else "application/json": {
                "schema": known.ref(action.response),
                "example": example,
            }
        }
    answers = {str(action.status): succeeded}
    for code, when in schemas.errors(action).items():
        answer = answers.setdefault(str(code.http_status), _failed(code.http_status))
        answer["description"] = "; ".join(filter(None, [answer["description"], f"`{code}`: {when}"]))
        answer["content"]["application/problem+json"]["examples"][str(code)] = {"value": _example_problem(code)}
    return answers


def _failed(status: int) -> dict[str, Any]:
    problem = {"schema": {"$ref": REF.format(model="Problem")}, "examples": {}}
    answer: dict[str, Any] = {"description": "", "content": {"application/problem+json": problem}}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    if status == 429:
        seconds = {"type": "integer", "minimum": 0}
        answer["headers"] = {"Retry-After": {"description": "Seconds", "schema": seconds}}
    return answer


def _example_problem(code: ErrorCode) -> dict[str, Any]:
    return problem_details(schemas.example_error(code), code.http_status)
