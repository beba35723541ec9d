"""The documents `/openapi.json` and `/asyncapi.json`, the types `/contract.ts`, and `/docs`, which is Swagger UI.

The server serves all files of the page, so it works without the Internet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import FastAPI, Request, Response
from orjson import dumps

from tidings.actions.dispatch import Registry

ASSETS = "/docs/assets"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<link rel="stylesheet" href=".{ASSETS}/swagger-ui.css">
<link rel="icon" href=".{ASSETS}/favicon-32x32.png">
<title>Tidings</title>
</head>
<body>
<div id="swagger-ui"></div>
<script src=".{ASSETS}/swagger-ui-bundle.js"></script>
<script src=".{ASSETS}/start.js"></script>
</body>
</html>
"""
# `validatorUrl`: by default, Swagger UI sends the document's address to another host for validation.
_START = """SwaggerUIBundle({
  url: "./openapi.json",
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""
GUARDS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""The page accepts passwords (*Authorize*). So the browser must not load from or send to another host, run inline
scripts, or show the page in a frame."""


def install(app: FastAPI, registry: Registry, *, dev_tokens: bool = False) -> None:
    """Add the documents of a registry's actions, and `/docs` with its files.

    Args:
        dev_tokens: whether `GET /token` is served, and so described.
    """

    # The generators are imported at the first request, because few servers get one.

    def openapi_document(prefix: str) -> bytes:
        from tidings.gateways import openapi

        return dumps(openapi.document(registry, dev_tokens=dev_tokens, prefix=prefix))

    def asyncapi_document(prefix: str) -> bytes:
        from tidings.gateways import asyncapi

        return dumps(asyncapi.document(registry, prefix))

    def typescript_types(_: str) -> bytes:
        from tidings.gateways import typescript

        return typescript.render(registry).encode()

    _describe(app, "/openapi.json", openapi_document)
    _describe(app, "/asyncapi.json", asyncapi_document)
    _describe(app, "/contract.ts", typescript_types, "text/plain")
    files = resources.files("fastapi_swagger.resources")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(_PAGE, media_type="text/html", headers=GUARDS)

    @app.get(f"{ASSETS}/start.js", include_in_schema=False)
    async def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_CACHED_FOR_A_DAY)

    for name, media_type in _TYPES.items():
        _serve(app, files / name, f"{ASSETS}/{name}", media_type)


def _describe(
    app: FastAPI, path: str, document: Callable[[str], bytes], media_type: str = "application/json"
) -> None:
    """Serve a document, by prefix, built at the first request, in a thread: it takes about 80 ms."""
    body = lru_cache(8)(document)  # a mount with a parameter in its path has any number of prefixes

    @app.get(path, include_in_schema=False)
    def described(request: Request) -> Response:
        return Response(body(request.scope.get("root_path", "")), media_type=media_type)


_CACHED_FOR_A_DAY = {"Cache-Control": "max-age=86400"}


def _serve(app: FastAPI, file: Traversable, path: str, media_type: str) -> None:
    @app.get(path, include_in_schema=False)
    def asset() -> Response:
        return Response(file.read_bytes(), media_type=media_type, headers=_CACHED_FOR_A_DAY)
