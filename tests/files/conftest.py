"""Stores for files: a directory, and a bucket of a server of that protocol."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from tests.cli.conftest import command
from tests.files.support import make_bucket

__all__ = ("command",)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", "bucket"])
def files_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`TIDINGS_FILES_URL` of the test: a directory, or a bucket of its own."""
    if request.param == "directory":
        return ""
    endpoint = request.getfixturevalue("s3_server")
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    bucket = f"files-{secrets.token_hex(4)}"
    make_bucket(endpoint, bucket)
    return f"s3://{bucket}/tidings"
