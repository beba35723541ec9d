"""The server keeps `/openapi.json` for requests that schemathesis generates from it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.node import RunningNode

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""Without the check that valid data is accepted: no schema tells whether a name is valid (RFC 8265) or free."""

CONFIG = f"""
[checks]
enabled = false
{"".join(f"{check}.enabled = true{chr(10)}" for check in CHECKS)}
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 422, 428, 429]

[[operations]]
include-path-regex = "^/(user/(login|logout)|api/rooms/connect)$"
checks.allow_header_conformance.enabled = false
"""
"""Content over a limit is refused with 413 (`too_large`), which the check does not expect by default. A user may be
named `login`, so `Allow` contains the GET of their profile, too; as DELETE is one of a room `connect`."""


@pytest.mark.timeout(320)
async def test_the_server_conforms_to_its_openapi_document(lite: RunningNode, tmp_path: Path) -> None:
    token = await lite.register("omar")
    await lite.register("diego")
    async with httpx.AsyncClient(base_url=lite.url, headers={"Authorization": f"Bearer {token}"}) as http:
        assert (await http.post("/api/topics", json={"topic_name": "noticias"})).is_success
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{lite.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "12", "--generation-deterministic"),
        *("--warnings", "off", "--no-color", "--suppress-health-check", "all"),
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.rest.fuzzed", "TIDINGS_FUZZED": lite.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(300):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
