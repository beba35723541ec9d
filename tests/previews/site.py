"""A web site of the tests' own: its pages may be endless, slow or wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


def page(body: bytes | str, *headers: str, status: int = 200) -> bytes:
    """A whole answer; text/html unless `headers` name another type."""
    raw = body.encode() if isinstance(body, str) else body
    if not any(header.lower().startswith("content-type:") for header in headers):
        headers = (*headers, "content-type: text/html; charset=utf-8")
    head = "\r\n".join([f"HTTP/1.1 {status} X", *headers, f"content-length: {len(raw)}", "", ""])
    return head.encode() + raw


def titled(title: str) -> bytes:
    return page(f"<!doctype html><html><head><title>{title}</title></head><body></body></html>")


def redirect(target: str) -> bytes:
    return page("", f"location: {target}", status=302)


class Site:
    """Serves `pages`, by path; others are 404."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Answering] = {}
        self.asked: Counter[str] = Counter()
        self.heads: list[str] = []
        """The requests, with their headers."""
        self.connections = 0
        self.url = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            self.heads.append(head)
            self.asked[path] += 1
            answer = self.pages.get(path, page("", status=404))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort() if writer.is_closing() else writer.close()


@asynccontextmanager
async def serving(host: str = "127.0.0.1") -> AsyncIterator[Site]:
    site = Site()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await site.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(serve, host, 0)
    site.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield site
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
