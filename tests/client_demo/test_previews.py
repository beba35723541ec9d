"""Link previews in the terminal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client_demo.conftest import Cli, People, Server
from tests.previews.site import Site, page, serving
from tests.support.node import running_node


@pytest.fixture
async def server(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    async with running_node(sqlite_url, tmp_path, options={"previews": {"private": True}}) as node:
        yield node


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site


async def test_a_user_sees_where_the_links_of_a_message_lead_without_what_would_move_the_cursor(
    cli: Cli, people: People, site: Site
) -> None:
    await people.topic("noticias", "omar", "diego")
    head = '<title>Menu\x1b[2J\u202e</title><meta name="description" content="Today: soup">'
    site.pages["/menu"] = page(f'<meta charset="utf-8">{head}<meta property="og:site_name" content="Café">')
    await people.send("omar", "noticias", f"see {site.url}/menu", "no link")
    shown = (await cli("diego", "preview", "noticias", "1")).splitlines()
    assert [line.strip() for line in shown] == ["Menu[2J  Café", "Today: soup", f"{site.url}/menu"]
    printed = json.loads(await cli("diego", "preview", "--json", "noticias", "1"))
    assert (printed["title"], printed["url"]) == ("Menu[2J", f"{site.url}/menu")
    assert (await cli("diego", "preview", "noticias", ".")).strip() == "none of its links has a preview"
