"""The documents `/openapi.json` and `/asyncapi.json`, and `/docs`: Swagger UI over the first.

The page's files are served from here, so it works without the Internet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from orjson import dumps

from server.dispatch import Registry
from server.gateways import asyncapi, openapi

ASSETS = "/docs/assets"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_SAME_ORIGIN = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""The browser holds the page to it: nothing is loaded from, or sent to, another host."""


def install(app: FastAPI, registry: Registry) -> None:
    """Add the documents of a registry's actions, `/docs` and the files that it loads."""
    _describe(app, "/openapi.json", partial(openapi.document, registry))
    _describe(app, "/asyncapi.json", partial(asyncapi.document, registry))
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon-32x32.png",
        # Swagger UI would have another host judge the document.
        swagger_ui_parameters={"validatorUrl": None},
    )
    page.headers["Content-Security-Policy"] = _SAME_ORIGIN
    files = resources.files("fastapi_swagger.resources")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return page

    for name, media_type in _TYPES.items():
        _serve(app, files / name, f"{ASSETS}/{name}", media_type)


def _describe(app: FastAPI, path: str, document: Callable[[], dict[str, Any]]) -> None:
    """Serve a document, made when somebody asks for it: in a thread, as it takes some 80 ms."""
    body = cache(lambda: dumps(document()))

    @app.get(path, include_in_schema=False)
    def described() -> Response:
        return Response(body(), media_type="application/json")


def _serve(app: FastAPI, file: Traversable, path: str, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    def asset() -> Response:
        headers = {"Cache-Control": "max-age=86400"}
        return Response(file.read_bytes(), media_type=media_type, headers=headers)
