"""The stored echo channel of a user."""

from __future__ import annotations

from typing import Any

from tests.support.client import Client


def contents(page: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["direction"], entry["content"]) for entry in page["entries"]]


async def whole(client: Client, limit: int = 200) -> list[tuple[str, str]]:
    """The whole echo log, page by page from its end."""
    pages: list[list[tuple[str, str]]] = []
    before = None
    while True:
        page = await client.ask("echo_history", {"before": before, "limit": limit})
        pages.insert(0, contents(page))
        before = page["next"]
        if before is None:
            return [entry for page_entries in pages for entry in page_entries]
