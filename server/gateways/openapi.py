"""The OpenAPI 3.1 document, made from the registry."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import models_json_schema

from server import __version__
from server.contract.errors import Error, ErrorCode
from server.dispatch import Action, Registry

_REF = "#/components/schemas/{model}"


def document(registry: Registry) -> dict[str, Any]:
    """Every route of the registry, with its payload, its answer and its errors."""
    routed = [action for action in registry if action.http is not None]
    wanted: dict[Any, None] = {}
    for action in routed:
        wanted[action.request, "validation"] = None
        wanted[action.response, "serialization"] = None
    wanted[Error, "serialization"] = None
    names, definitions = models_json_schema(list(wanted), ref_template=_REF)
    schemas = dict(definitions.get("$defs", {}))
    schemas["Problem"] = _problem(schemas["Error"])
    paths: dict[str, Any] = {}
    for action in routed:
        assert action.http is not None
        method, path = action.http.split(" ", 1)
        request = _resolve(names[action.request, "validation"], schemas)
        response = names[action.response, "serialization"]
        paths.setdefault(path, {})[method.lower()] = _operation(action, method, path, request, response)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "A message server where an acknowledged message arrives. Live: docs/protocol.md.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return dict(schemas[schema["$ref"].rsplit("/", 1)[1]]) if "$ref" in schema else schema


def _problem(error: dict[str, Any]) -> dict[str, Any]:
    """RFC 9457, with the members of the contract's `Error`."""
    properties = {name: schema for name, schema in error["properties"].items() if name != "message"}
    return {
        "type": "object",
        "title": "Problem",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            **properties,
        },
    }


def _operation(
    action: Action, method: str, path: str, request: dict[str, Any], response: dict[str, Any]
) -> dict[str, Any]:
    in_path = set(re.findall(r"{(\w+)}", path))
    properties: dict[str, Any] = request.get("properties", {})
    required = set(request.get("required", ()))
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": properties.get(name, {"type": "string"})}
        for name in sorted(in_path)
    ]
    operation: dict[str, Any] = {
        "operationId": action.name,
        "summary": action.summary,
        "description": action.description,
        "responses": _responses(action, response),
    }
    if method in ("GET", "DELETE"):
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in properties.items()
            if name not in in_path
        ]
    elif properties:
        content = {"application/json": {"schema": {"$ref": _REF.format(model=action.request.__name__)}}}
        operation["requestBody"] = {"required": bool(required), "content": content}
    if parameters:
        operation["parameters"] = parameters
    if not action.anonymous:
        operation["security"] = [{"bearer": []}]
    return operation


def _responses(action: Action, response: dict[str, Any]) -> dict[str, Any]:
    succeeded: dict[str, Any] = {"description": "Done"}
    if action.status != 204:
        succeeded["content"] = {"application/json": {"schema": response}}
    answers = {str(action.status): succeeded}
    for code in ErrorCode:
        if code is not ErrorCode.UNKNOWN_ACTION:
            status = str(code.http_status)
            known = answers.setdefault(
                status,
                {
                    "description": "",
                    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
                },
            )
            known["description"] = "; ".join(filter(None, [known["description"], f"`{code}`: {code.meaning}"]))
    return answers
