"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import ValidationError
from starlette.routing import Route

import tidings.actions
from tests.support.client import REGISTRY
from tests.support.node import running_node
from tidings.actions.dispatch import Registry
from tidings.gateways import openapi, typescript
from tidings.gateways.dialects import messenger_rest
from tidings.gateways.dialects.registry import mounted
from tidings.gateways.schemas import ALWAYS, errors

ROUTED = [action for action in REGISTRY if action.http is not None]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(Registry(tidings.actions))


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


_NOT_API = re.compile(
    r"/(docs(/assets/.*)?|openapi\.json|asyncapi\.json|admin|health/(live|ready)|metrics"
    r"|((assets|emoji|socket\.io)/.*)?|[\w-]+\.\w+|api/uploads.*|files/.*)"
)
"""The documents themselves, the files of the page, the bytes of files, and the routes for operators."""


@pytest.mark.parametrize("dev_tokens", [False, True])
async def test_the_document_names_every_route_that_is_served_and_no_other(
    sqlite_url: str, tmp_path: Path, dev_tokens: bool
) -> None:
    async with running_node(sqlite_url, tmp_path, dev_tokens=dev_tokens) as node:
        served = {
            f"{method} {route.path}"
            for route in node.app.web.routes
            if isinstance(route, Route) and not _NOT_API.fullmatch(route.path)
            for method in route.methods or ()
            if route.name != messenger_rest.OTHER_ROUTES and (dev_tokens or route.path != "/token")
        }
        async with httpx.AsyncClient(base_url=node.url) as http:
            document = (await http.get("/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == served
    assert {action.http for action in ROUTED} < described
    assert len(described) == len(ROUTED) + len(mounted(dev_tokens=dev_tokens)) > len(ROUTED)
    used = {
        tag for methods in document["paths"].values() for operation in methods.values() for tag in operation["tags"]
    }
    assert {tag["name"] for tag in document["tags"]} == used, "a tag without a route is an empty section of the page"


def test_each_route_of_a_dialect_is_described_with_its_answers_and_tag(document: dict[str, Any]) -> None:
    """The messenger answers in its envelope with every status; the others refuse with problem details."""
    tags = {tag["name"] for tag in document["tags"]}
    operations = [
        operation
        for path, methods in document["paths"].items()
        if not path.startswith("/api/")
        for operation in methods.values()
    ]
    names = {operation["operationId"] for methods in document["paths"].values() for operation in methods.values()}
    assert len(names) == len(ROUTED) + len(operations)
    for operation in operations:
        (tag,) = operation["tags"]
        assert tag in tags
        for status, answer in operation["responses"].items():
            ((kind, content),) = answer["content"].items()
            if tag == "dialect: messenger":
                assert kind == "application/json"
                assert _resolve(document, content["schema"])["required"] == ["Message", "Data"]
            else:
                assert kind == ("application/json" if int(status) < 400 else "application/problem+json")


def test_a_number_without_a_fraction_is_an_integer_of_a_body_as_in_json_schema(document: dict[str, Any]) -> None:
    wanted, refused = 0, []
    for action in ROUTED:
        method, path = (action.http or "").split(" ", 1)
        body = (
            document["paths"][path][method.lower()].get("requestBody", {}).get("content", {}).get("application/json")
        )
        for name, field in _resolve(document, body["schema"])["properties"].items() if body else ():
            if "integer" in (kind.get("type") for kind in field.get("anyOf", [field])):
                wanted += 1
                try:
                    action.request.model_validate({name: 1.0}, strict=True)
                except ValidationError as error:
                    refused += [(action.name, name) for problem in error.errors() if name in problem["loc"]]
    assert wanted >= 4
    assert refused == []


@pytest.mark.parametrize("action", ROUTED, ids=lambda action: action.name)
def test_each_route_is_described_with_its_payload_answer_and_errors(document: dict[str, Any], action: Any) -> None:
    method, path = action.http.split(" ", 1)
    operation = document["paths"][path][method.lower()]
    assert operation["operationId"] == action.name
    assert operation["summary"]
    with_token = [{"bearer": []}, {"password": []}]
    expected = ([{}] if action.personal else []) if action.anonymous else []
    assert operation["security"] == expected + (with_token if action.personal or not action.anonymous else [])
    assert operation["tags"] == [action.noun]
    assert {"name": action.noun} in document["tags"]

    fields = set(action.request.model_fields)
    in_path = set(re.findall(r"{(\w+)}", path))
    parameters = {each["name"]: each for each in operation.get("parameters", []) if each["in"] != "header"}
    assert {name for name, parameter in parameters.items() if parameter["in"] == "path"} == in_path
    if method in ("GET", "DELETE"):
        assert parameters.keys() == fields | in_path
        assert "requestBody" not in operation
    elif fields:
        body = operation["requestBody"]["content"]["application/json"]
        schema = _resolve(document, body["schema"])
        assert len(schema["properties"]) == len(fields - in_path)
        assert schema["additionalProperties"] is False
        in_the_path = {name: parameters[name]["example"] for name in in_path}
        action.request.model_validate(body["example"] | in_the_path, strict=True)

    answers = operation["responses"]
    assert (action.status == 204) is ("content" not in answers[str(action.status)])
    if action.status != 204:
        (kind,) = answers[str(action.status)]["content"]
        assert kind == ("application/x-ndjson" if action.streams else "application/json")
        action.response.model_validate(answers[str(action.status)]["content"][kind]["example"])
    assert set(ALWAYS) | set(action.refusals) <= set(errors(action))
    for code, when in errors(action).items():
        answer = answers[str(code.http_status)]
        assert f"`{code}`: {when}" in answer["description"]
        content = answer["content"]["application/problem+json"]
        schema = _resolve(document, content["schema"])
        assert set(schema["required"]) == content["examples"][code]["value"].keys()
        assert content["examples"][code]["value"]["code"] == code
    assert answers.keys() == {str(action.status)} | {str(code.http_status) for code in errors(action)}


def test_the_idempotency_key_and_the_server_are_described(document: dict[str, Any]) -> None:
    message = document["paths"]["/api/messages"]["post"]
    (key,) = message["parameters"]
    assert (key["in"], key["name"], key["required"]) == ("header", "Idempotency-Key", False)
    assert document["servers"] == [{"url": "/", "description": "The server of this document"}]


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/components/schemas/")
    target: dict[str, Any] = document["components"]["schemas"][name]
    return target


async def test_the_document_is_served(http: httpx.AsyncClient, document: dict[str, Any]) -> None:
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == document


async def test_the_types_are_served(http: httpx.AsyncClient) -> None:
    answer = await http.get("/contract.ts")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert answer.text == typescript.render(REGISTRY)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert "style" not in names, "the policy allows no inline styles"
        assert tag != "script" or "src" in names
        self.links += [value for name, value in attributes if name in ("src", "href") and value]


async def test_the_page_is_shown_and_loads_nothing_from_other_hosts(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "://" not in page.text
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert not any("unsafe" in directive or "http" in directive for directive in policy)

    start = (await http.get("/docs/assets/start.js")).text
    assert 'url: "./openapi.json"' in start
    assert "://" not in start
    assert "validatorUrl: null" in start, "by default, Swagger UI sends the document to another host for validation"

    links = _Links()
    links.feed(page.text)
    assert sorted(link.rpartition(".")[2] for link in links.links) == ["css", "js", "js", "png"]
    for link in links.links:
        assert link.startswith("./docs/assets/")
        asset = await http.get(link.removeprefix("."))
        assert asset.status_code == 200
        assert len(asset.content) > 200
        expected = {"css": "text/css", "js": "text/javascript", "png": "image/png"}[link.rpartition(".")[2]]
        assert asset.headers["Content-Type"].startswith(expected)
