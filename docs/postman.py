"""Generates a Postman collection of the HTTP routes: `python -m docs.postman`, or `make postman`.

It is converted from the OpenAPI document, which is generated from the registry of actions. After its request to
register or log in, the others carry the token.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import server.actions
from server.dispatch import Registry
from server.gateways import openapi
from server.gateways.dialects.registry import token_field

ROOT: Final = Path(__file__).resolve().parent.parent
CONVERTER: Final = ROOT / "tests/js/node_modules/openapi-to-postmanv2/bin/openapi2postmanv2.js"
COLLECTION: Final = ROOT / "build/tidings.postman_collection.json"
ADDRESS: Final = "http://127.0.0.1:8000"
"""The initial value of `baseUrl`, a variable of the collection."""
_OPTIONS: Final = {
    "folderStrategy": "Tags",
    "parametersResolution": "Example",
    "enableOptionalParameters": "false",
    "includeAuthInfoInExample": "false",
}
_KEEP_TOKEN: Final = (
    'if (pm.response.code < 300) pm.collectionVariables.set("bearerToken", pm.response.json().{member});'
)


def collection(node: str = "node") -> dict[str, Any]:
    """The collection (format 2.1); `node` is Node.js. Raises `CalledProcessError` if it cannot be converted."""
    openapi_document = openapi.document(Registry(server.actions), dev_tokens=True) | {"servers": [{"url": ADDRESS}]}
    options = ",".join(f"{name}={value}" for name, value in _OPTIONS.items())
    with TemporaryDirectory() as directory:
        source, target = Path(directory, "openapi.json"), Path(directory, "collection.json")
        source.write_text(json.dumps(openapi_document), "utf-8")
        command = [node, str(CONVERTER), "-s", str(source), "-o", str(target), "-O", options]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        converted: dict[str, Any] = json.loads(target.read_text("utf-8"))
    converted["variable"].append({"key": "bearerToken", "value": ""})
    for item in (item for folder in converted["item"] for item in folder["item"]):
        method, path = route(item)
        operation = openapi_document["paths"][path][method.lower()]
        # A valid request needs only the parameters with an example.
        needed = {parameter["name"] for parameter in operation.get("parameters", ()) if "example" in parameter}
        for parameter in item["request"]["url"]["query"]:
            parameter["disabled"] = parameter["key"] not in needed
        name = operation["operationId"]
        if member := "token" if name in ("register", "login", "refresh") else token_field(name):
            script = {"type": "text/javascript", "exec": [_KEEP_TOKEN.format(member=member)]}
            item["event"] = [{"listen": "test", "script": script}]
    return converted


def route(item: dict[str, Any]) -> tuple[str, str]:
    """Method and path of a request of the collection, as OpenAPI writes it."""
    parts = item["request"]["url"]["path"]
    path = "".join(f"/{{{part[1:]}}}" if part.startswith(":") else f"/{part}" for part in parts)
    # A parameter that is only part of a segment is a variable of the collection.
    return item["request"]["method"], path.replace("{{", "{").replace("}}", "}")


if __name__ == "__main__":
    try:
        text = json.dumps(collection(), indent=1, ensure_ascii=False)
    except subprocess.CalledProcessError as error:
        sys.exit(f"openapi-to-postmanv2 failed: {error.stdout}{error.stderr}")
    COLLECTION.parent.mkdir(exist_ok=True)
    COLLECTION.write_text(text + "\n", "utf-8")
    print(COLLECTION.relative_to(ROOT))
