"""The OpenAPI 3.1 document, made from the registry and the table of the dialects' routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tidings import __version__
from tidings.actions.dispatch import Action, Registry
from tidings.contract.errors import Error, ErrorCode
from tidings.gateways import schemas
from tidings.gateways.dialects import registry as dialects
from tidings.gateways.dialects.routes import FORM, PASSWORD_FLOW, DialectRoute, record
from tidings.gateways.problems import problem_details
from tidings.gateways.rest import IDEMPOTENCY_KEY, JSON_LINES, KEY_PATTERN
from tidings.gateways.schemas import REF, Schema, Schemas


def document(registry: Registry, *, dev_tokens: bool = False, prefix: str = "") -> dict[str, Any]:
    """Every route of the registry and the dialects, with its payload, answer, errors and examples.

    Args:
        dev_tokens: whether `GET /token` is served.
        prefix: the path below which the server is mounted.
    """
    routed = [action for action in registry if action.http is not None]
    components = Schemas(
        received=[action.request for action in routed], sent=[*(action.response for action in routed), Error]
    )
    paths: dict[str, Any] = {}
    for action in routed:
        assert action.http is not None
        method, path = action.http.split(" ", 1)
        paths.setdefault(path, {})[method.lower()] = _operation(action, method, path, components)
    mounted = dialects.mounted(dev_tokens=dev_tokens)
    for route in mounted:
        paths.setdefault(route.url, {})[route.method.lower()] = _dialects(route, registry, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidings",
            "version": __version__,
            "description": "A message server: once a message is acknowledged, everyone gets it. Events, and the same"
            " actions over a live connection: [AsyncAPI](/asyncapi.json).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": prefix or "/", "description": "The server of this document"}],
        "tags": [*tags(routed), *(tag._asdict() for tag in dialects.tags(mounted))],
        "paths": paths,
        "components": {
            "schemas": components.components | {"Problem": _problem(components.of(Error)), "Refusal": _REFUSAL},
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
                    "description": "The same token, for a username and password (RFC 6749, section 4.3)",
                },
            },
        },
    }


def tags(actions: list[Action]) -> list[dict[str, str]]:
    """The groups of the actions."""
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
            "detail": {"type": "string", "description": "For people; its text may change. Programs use `code`."},
            **properties,
        },
    }


def _operation(action: Action, method: str, path: str, components: Schemas) -> dict[str, Any]:
    in_path = re.findall(r"{(\w+)}", path)
    request = components.of(action.request)
    properties: dict[str, Schema] = request.get("properties", {})
    description = action.description
    parameters = [_parameter("path", name, properties[name], components, required=True) for name in in_path]
    operation: dict[str, Any] = {"operationId": action.name, "tags": [action.noun], "summary": action.summary}
    if method in ("GET", "DELETE"):
        example = components.example(request)
        parameters += [
            _parameter(
                "query", name, schema, components, required=name in request.get("required", ()), shown=name in example
            )
            for name, schema in properties.items()
            if name not in in_path
        ]
        if one_of := schemas.exactly_one(request):
            description += f"\n\nExactly one of {', '.join(f'`{name}`' for name in one_of)}."
    elif properties:
        content = {"schema": _body(action, request, in_path, components), "example": components.example(request)}
        for name in in_path:
            content["example"].pop(name, None)
        required = bool(set(request.get("required", ())) - set(in_path)) or "oneOf" in request
        operation["requestBody"] = {"required": required, "content": {"application/json": content}}
    if "client_id" in properties:
        parameters.append(_idempotency_key())
    operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    operation["responses"] = _responses(action, components)
    optional: list[dict[str, list[str]]] = [{}] if action.personal else []
    operation["security"] = optional + (
        [] if action.anonymous and not action.personal else [{"bearer": []}, {"password": []}]
    )
    return operation


def _body(action: Action, request: Schema, in_path: list[str], components: Schemas) -> Schema:
    """The payload's schema, without the parameters of the path."""
    if not in_path:
        return components.ref(action.request)
    properties = {name: schema for name, schema in request["properties"].items() if name not in in_path}
    required = [name for name in request.get("required", ()) if name not in in_path]
    return {**request, "title": f"{request['title']}Body", "properties": properties, "required": required}


def _parameter(
    location: str, name: str, schema: Schema, components: Schemas, *, required: bool, shown: bool = True
) -> dict[str, Any]:
    """A field in the path or the query string, which cannot be `null`.

    Args:
        shown: whether it has an example.
    """
    parameter: dict[str, Any] = {"name": name, "in": location, "required": required}
    if "description" in schema:
        parameter["description"] = schema["description"]
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        annotations = {key: value for key, value in schema.items() if key != "anyOf"}
        schema = kinds[0] | annotations if "$ref" not in kinds[0] else dict(kinds[0])
    schema = {key: value for key, value in schema.items() if not (key == "default" and value is None)}
    parameter["schema"] = schema
    if shown:
        parameter["example"] = components.example(schema, name)
    return parameter


def _idempotency_key() -> dict[str, Any]:
    return {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "required": False,
        "description": "Used instead of `client_id`: requests with the same key take effect once. 1–64 visible ASCII"
        " characters; if `client_id` is given too, it must be equal.",
        "schema": {"type": "string", "pattern": KEY_PATTERN},
    }


def _responses(action: Action, components: Schemas) -> dict[str, Any]:
    succeeded: dict[str, Any] = {"description": "Done"}
    if action.status != 204:
        example = components.example(components.of(action.response))
        succeeded["content"] = {
            JSON_LINES if action.streams else "application/json": {
                "schema": components.ref(action.response),
                "example": example,
            }
        }
    answers = {str(action.status): succeeded}
    _add_failures(answers, schemas.errors(action))
    return answers


def _add_failures(answers: dict[str, Any], reasons: Mapping[ErrorCode, str], *, enveloped: bool = False) -> None:
    for code, reason in reasons.items():
        status = code.http_status
        answer = answers.setdefault(str(status), _failed(status))
        answer["description"] = "; ".join(filter(None, [answer["description"], f"`{code}`: {reason}"]))
        if enveloped:
            answer["content"] = {"application/json": {"schema": {"$ref": REF.format(model="Refusal")}}}
        else:
            example = problem_details(schemas.example_error(code), status)
            answer["content"]["application/problem+json"]["examples"][str(code)] = {"value": example}


def _failed(status: int) -> dict[str, Any]:
    problem = {"schema": {"$ref": REF.format(model="Problem")}, "examples": {}}
    answer: dict[str, Any] = {"description": "", "content": {"application/problem+json": problem}}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
    if status == 429:
        seconds = {"type": "integer", "minimum": 0}
        answer["headers"] = {"Retry-After": {"description": "Seconds", "schema": seconds}}
    return answer


def _dialects(route: DialectRoute, registry: Registry, components: Schemas) -> dict[str, Any]:
    """The operation of a dialect's route."""
    actions = [action for name in route.actions if (action := registry.get(name)) is not None]

    def of(field: str) -> tuple[Schema, bool, Any]:
        """The schema of a field "action.name", whether the action requires it, and an example."""
        action_name, _, name = field.partition(".")
        action = registry.get(action_name)
        assert action is not None, action_name
        request = components.of(action.request)
        schema: Schema = request["properties"][name]
        return schema, name in request.get("required", ()), components.example(schema, name)

    parameters = []
    for location, fields in (("path", route.path), ("query", route.query)):
        for name, field in fields.items():
            schema, required, example = of(field)
            required = required or location == "path"
            parameter = _parameter(location, name, schema, components, required=required, shown=False)
            parameters.append(parameter | ({"example": example} if required else {}))
    operation: dict[str, Any] = {"operationId": route.name, "tags": [route.tag.name], "summary": route.summary}
    if actions:
        names = (f"`{action.name}` (`{action.http}`)" for action in actions)
        operation["description"] = f"A dialect's form of {', '.join(names)}."
    if route.body:
        body = {name: of(field) for name, field in route.body.items()}
        schemas_of_fields = {name: schema for name, (schema, _, _) in body.items()}
        examples = {name: example for name, (_, _, example) in body.items()}
        operation["requestBody"] = {"required": True, "content": _dialects_body(route, schemas_of_fields, examples)}
    if route.keyed:
        parameters.append(_idempotency_key())
    if parameters:
        operation["parameters"] = parameters
    schema = record(Message={"type": "string"}, Data=route.answer) if route.envelope else route.answer
    content = {"schema": schema, "example": components.example(schema)}
    answers: dict[str, Any] = {str(route.status): {"description": "Done", "content": {"application/json": content}}}
    operation["responses"] = answers
    operation["security"] = [] if route.anonymous else [{"bearer": []}, {"password": []}]
    _add_failures(answers, _dialects_errors(route, actions), enveloped=bool(route.envelope))
    return operation


def _dialects_body(route: DialectRoute, fields: dict[str, Schema], examples: dict[str, Any]) -> dict[str, Any]:
    """The body as JSON, and as a form if the route accepts one. The messenger treats a null field as left out."""
    required = [name for name in fields if name not in (*route.optional, *route.one_of)]
    example = {name: value for name, value in examples.items() if name in (*required, *route.one_of[:1])}
    if route.envelope:
        fields = fields | {name: _or_null(fields[name]) for name in (*route.optional, *route.one_of)}
    schema: Schema = {"type": "object", "required": required, "properties": fields}
    if route.one_of:
        schema["oneOf"] = [{"required": [name]} | _others_null(route, name) for name in route.one_of]
    content = {"application/json": {"schema": schema, "example": example}}
    if route.form:
        form = schema | {"properties": fields | {"grant_type": {"const": "password"}}}
        content[FORM] = {"schema": form, "example": example}
    return content


def _or_null(schema: Schema) -> Schema:
    return schema if "anyOf" in schema else {"anyOf": [schema, {"type": "null"}]}


def _others_null(route: DialectRoute, alternative: str) -> Schema:
    """The rule that all alternative fields but one are null or absent; empty if the route allows no null."""
    if not route.envelope:
        return {}
    is_null: Schema = {"type": "null"}
    return {"properties": {name: {"not": is_null} if name == alternative else is_null for name in route.one_of}}


def _dialects_errors(route: DialectRoute, actions: list[Action]) -> dict[ErrorCode, str]:
    reasons: dict[ErrorCode, str] = {}
    for action in actions:
        for code, reason in schemas.errors(action).items():
            if reason not in reasons.get(code, ""):
                reasons[code] = "; ".join(filter(None, [reasons.get(code, ""), reason]))
    codes = [ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL, *route.errors]
    if not route.anonymous:
        codes += [ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED, ErrorCode.TOKEN_REVOKED]
    return {code: code.meaning for code in codes} | reasons


_REFUSAL: Schema = {
    "title": "Refusal",
    "description": "An error of the messenger's routes.",
    **record(Message={"type": "string", "description": "What is wrong"}, Data={"type": "null"}),
}
