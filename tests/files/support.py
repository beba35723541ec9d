"""Uploads of the tests, cut as a bad network cuts them, and images."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
from PIL import Image

from tests.support.client import DEADLINE_S
from tests.support.node import NO_TLS, RunningNode
from tidings.files.store import FolderStore

PART = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


def make_bucket(endpoint: str, name: str) -> None:
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)


def http(server: RunningNode, token: str | None = None) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, verify=NO_TLS, headers=headers, timeout=60)


def picture(size: tuple[int, int] = (1200, 600), kind: str = "JPEG", **options: Any) -> bytes:
    image = Image.effect_noise(size, 60).convert("RGB")
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


async def begin(server: RunningNode, token: str, name: str, size: int) -> dict[str, Any]:
    async with http(server, token) as client:
        answer = await client.post("/api/files", json={"name": name, "size": size})
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    return upload


async def put(server: RunningNode, token: str, url: str, content: bytes, offset: int = 0) -> httpx.Response:
    async with http(server, token) as client:
        return await client.patch(url, content=content, headers={**PART, "Upload-Offset": str(offset)})


async def upload(server: RunningNode, token: str, name: str, content: bytes) -> str:
    """Upload a file in one part: its id."""
    begun = await begin(server, token, name, len(content))
    answer = await put(server, token, begun["url"], content)
    assert answer.status_code == 204, answer.text
    file_id: str = begun["id"]
    return file_id


@asynccontextmanager
async def begun_part(
    server: RunningNode, token: str, url: str, content: bytes, offset: int, sent: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Begin a part with the rest of a file, of which only `sent` bytes are sent."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = {
        "Host": parts.netloc,
        "Authorization": f"Bearer {token}",
        "Content-Length": len(content) - offset,
        "Upload-Offset": offset,
        **PART,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    writer.write(f"PATCH /{url} HTTP/1.1\r\n{lines}\r\n".encode() + content[offset : offset + sent])
    try:
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def cut(server: RunningNode, token: str, url: str, content: bytes, offset: int, sent: int) -> None:
    """Begin a part with the rest of a file, and close the connection after `sent` bytes of it."""
    async with begun_part(server, token, url, content, offset, sent):
        pass


async def offset_of(server: RunningNode, token: str, url: str) -> int:
    async with http(server, token) as client:
        answer = await client.head(url, headers={"Tus-Resumable": "1.0.0"})
    assert answer.status_code == 200, answer.status_code
    return int(answer.headers["Upload-Offset"])


async def moved_on(server: RunningNode, token: str, url: str, offset: int) -> int:
    """The offset of an upload, once it is another one than `offset`."""
    async with asyncio.timeout(DEADLINE_S):
        while (durable := await offset_of(server, token, url)) == offset:
            pass
    return durable


async def links(server: RunningNode, token: str, *file_ids: str) -> list[dict[str, Any]]:
    async with http(server, token) as client:
        answer = await client.post("/api/file-links", json={"file_ids": list(file_ids)})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["files"]
    return found


async def fetch(server: RunningNode, url: str, **headers: str) -> httpx.Response:
    async with http(server) as client:
        return await client.get(url, headers=headers)


def stored(server: RunningNode) -> list[Path]:
    """The contents that the server has in its folder."""
    store = server.node.files.store
    assert isinstance(store, FolderStore)
    return [path for path in store.root.rglob("*") if path.is_file()]
