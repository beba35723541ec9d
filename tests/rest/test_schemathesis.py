"""What `/openapi.json` promises holds, whatever is asked: judged by schemathesis, which makes requests from it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.node import RunningNode

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
"""Not that valid data is accepted: the shape of a name does not tell whether it is one (RFC 8265), or whose."""

CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 422, 428, 429]
"""
"""What is too long is refused with 413 (`too_large`), which the check does not take for a refusal by itself."""


@pytest.mark.timeout(150)
async def test_the_openapi_document_is_kept(lite: RunningNode, tmp_path: Path) -> None:
    token = await lite.register("omar")
    await lite.register("diego")
    async with httpx.AsyncClient(base_url=lite.url, headers={"Authorization": f"Bearer {token}"}) as http:
        assert (await http.post("/api/topics", json={"topic_name": "noticias"})).is_success
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{lite.url}/openapi.json"),
        *("--checks", ",".join(CHECKS)),
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
        async with asyncio.timeout(140):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode()
