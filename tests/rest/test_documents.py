"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

import server.actions
from server.dispatch import Registry
from server.gateways import openapi
from server.gateways.schemas import ALWAYS, errors
from tests.support.client import REGISTRY

ROUTED = [action for action in REGISTRY if action.http is not None]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(Registry(server.actions))


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_document_names_every_route_and_no_other(document: dict[str, Any]) -> None:
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == {action.http for action in ROUTED}


@pytest.mark.parametrize("action", ROUTED, ids=lambda action: action.name)
def test_each_route_has_its_payload_its_answer_and_its_errors(document: dict[str, Any], action: Any) -> None:
    method, path = action.http.split(" ", 1)
    operation = document["paths"][path][method.lower()]
    assert operation["operationId"] == action.name
    assert operation["summary"]
    assert operation["security"] == ([] if action.anonymous else [{"bearer": []}, {"password": []}])
    assert operation["tags"] == [action.noun]
    assert {"name": action.noun} in document["tags"]

    fields = set(action.request.model_fields)
    in_path = set(re.findall(r"{(\w+)}", path))
    parameters = {one["name"]: one for one in operation.get("parameters", []) if one["in"] != "header"}
    assert {name for name, one in parameters.items() if one["in"] == "path"} == in_path
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


def test_what_can_be_said_over_http_only_so_is_in_the_document(document: dict[str, Any]) -> None:
    message = document["paths"]["/api/messages"]["post"]
    (key,) = message["parameters"]
    assert (key["in"], key["name"], key["required"]) == ("header", "Idempotency-Key", False)
    assert document["servers"] == [{"url": "/", "description": "Where this document is from"}]


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/components/schemas/")
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


async def test_the_document_is_served(http: httpx.AsyncClient, document: dict[str, Any]) -> None:
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == document


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attributes if name in ("src", "href") and value]


async def test_the_page_is_shown_and_loads_nothing_from_other_hosts(http: httpx.AsyncClient) -> None:
    page = await http.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "/openapi.json" in page.text
    assert "://" not in page.text
    # Unless told not to, Swagger UI asks another host to judge the document.
    assert '"validatorUrl": null' in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "http" not in page.headers["Content-Security-Policy"]

    links = _Links()
    links.feed(page.text)
    assert sorted(link.rpartition(".")[2] for link in links.found) == ["css", "js", "png"]
    for link in links.found:
        assert link.startswith("/docs/assets/")
        asset = await http.get(link)
        assert asset.status_code == 200
        assert len(asset.content) > 500
        expected = {"css": "text/css", "js": "text/javascript", "png": "image/png"}[link.rpartition(".")[2]]
        assert asset.headers["Content-Type"].startswith(expected)
