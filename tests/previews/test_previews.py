"""Who gets previews of which links, and what it costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Connection

from tests.previews.conftest import PRIVATE
from tests.previews.site import Site, page, titled
from tests.support.client import DEADLINE_S, LiveClient, connected
from tests.support.node import NO_TLS, RunningNode, running_node
from tidings.previews.links import links_in
from tidings_db.queries import previews as queries
from tidings_db.queries.previews import PreviewRow


async def previews(client: LiveClient, *message_ids: str) -> list[dict[str, Any]]:
    """The previews, when nothing is being fetched."""
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await client.ask("get_previews", message_ids=list(message_ids)))["pending"]:
            pass  # each answer is a round trip
    found: list[dict[str, Any]] = answer["previews"]
    return found


async def test_a_reader_gets_what_the_linked_pages_say(server: RunningNode, site: Site) -> None:
    site.pages["/menu"] = page(
        "<title>No</title><meta property=og:title content='El menú'><meta name=description content=Sopa>"
        "<meta property=og:site_name content=Diario>"
    )
    site.pages["/b"] = titled("B")
    async with connected(server.url, await server.register("omar")) as omar:
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask(
            "message",
            room_id=room["room_id"],
            content=f"Mira {site.url}/menu. ({site.url}/b) {site.url}/gone {site.url}/b",
        )
        found = await previews(omar, said["id"])
    texts = {"message_id": said["id"], "description": None, "site_name": None}
    assert found == [
        {**texts, "url": f"{site.url}/menu", "title": "El menú", "description": "Sopa", "site_name": "Diario"},
        {**texts, "url": f"{site.url}/b", "title": "B"},
    ]
    assert "link previews" in site.heads[0]


async def test_only_members_get_previews_and_nothing_is_fetched_for_others(server: RunningNode, site: Site) -> None:
    site.pages["/"] = titled("secret")
    token = await server.register("eva")
    async with (
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, token) as eva,
    ):
        for fields in ({"topic_name": "public-1"}, {"topic_name": "private-1", "is_private": True}):
            room = await omar.ask("create", **fields)
            said = await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/")
            nothing: dict[str, Any] = {"previews": [], "pending": []}
            assert await eva.ask("get_previews", message_ids=[said["id"], "no-such"]) == nothing
            assert not site.asked
        assert await previews(omar, said["id"])
        assert await eva.ask("get_previews", message_ids=[said["id"]]) == nothing
        async with httpx.AsyncClient(base_url=server.url, verify=NO_TLS) as http:
            request = {"message_ids": [said["id"]]}
            assert (await http.post("/api/previews", json=request)).status_code == 401
            headers = {"Authorization": f"Bearer {token}"}
            assert (await http.post("/api/previews", json=request, headers=headers)).json() == nothing


async def test_a_deleted_message_has_no_preview(server: RunningNode, site: Site) -> None:
    site.pages["/"] = titled("Menu")
    async with connected(server.url, await server.register("omar")) as omar:
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/")
        assert await previews(omar, said["id"])
        await omar.ask("delete", message_id=said["id"])
        assert await previews(omar, said["id"]) == []


async def test_the_sender_turns_a_preview_off_with_angle_brackets(server: RunningNode, site: Site) -> None:
    site.pages["/"] = titled("Menu")
    async with connected(server.url, await server.register("omar")) as omar:
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask("message", room_id=room["room_id"], content=f"<{site.url}/>")
        assert await previews(omar, said["id"]) == []
        assert not site.asked
        await omar.ask("edit", message_id=said["id"], content=f"{site.url}/")
        assert await previews(omar, said["id"])
        await omar.ask("edit", message_id=said["id"], content=f"[menu](<{site.url}/>)")
        assert await previews(omar, said["id"]) == []


async def test_the_setting_turns_previews_off(sqlite_url: str, tmp_path: Path, site: Site) -> None:
    site.pages["/"] = titled("Menu")
    async with (
        running_node(sqlite_url, tmp_path, options=PRIVATE, link_previews="off") as server,
        connected(server.url, await server.register("omar")) as omar,
    ):
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/")
        assert await previews(omar, said["id"]) == []
    assert not site.asked


async def test_private_addresses_are_refused_unless_a_test_allows_them(
    sqlite_url: str, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.previews.fetching._PORTS", range(65536))
    async with (
        running_node(sqlite_url, tmp_path) as server,
        connected(server.url, await server.register("omar")) as omar,
    ):
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/")
        assert await previews(omar, said["id"]) == []
    assert site.connections == 0


async def test_many_readers_cost_one_request_and_wait_for_nothing(server: RunningNode, site: Site) -> None:
    """A slow page holds up no other action of the readers."""
    open_now = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await open_now.wait()
        writer.write(titled("Menu"))

    site.pages["/"] = held
    site.pages["/gone"] = page("", status=404)
    async with (
        connected(server.url, await server.register("omar")) as omar,
        connected(server.url, await server.register("eva")) as eva,
    ):
        room = await omar.ask("create", topic_name="noticias")
        await eva.ask("subscribe", topic_name="noticias")
        said = [
            await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/#{number} {site.url}/gone")
            for number in range(5)
        ]
        ids = [message["id"] for message in said]
        for client in (omar, eva) * 2:
            answer = await client.ask("get_previews", message_ids=ids)
            assert answer == {"previews": [], "pending": answer["pending"]}
            assert set(answer["pending"]) == set(ids)
        open_now.set()
        for client in (omar, eva):
            assert [found["title"] for found in await previews(client, *ids)] == ["Menu"] * 5
    assert site.asked == {"/": 1, "/gone": 1}, "failures are cached as well"


async def test_a_result_is_shared_by_nodes_and_expires(postgresql_url: str, tmp_path: Path, site: Site) -> None:
    now = [1_800_000_000.0]
    options = {"previews": {"private": True, "clock": lambda: now[0]}}
    site.pages["/"] = titled("Menu")
    async with (
        running_node(postgresql_url, tmp_path / "a", options=options) as first,
        running_node(postgresql_url, tmp_path / "b", options=options) as second,
        connected(first.url, await first.register("omar")) as omar,
        connected(second.url, await second.login("omar")) as elsewhere,
    ):
        room = await omar.ask("create", topic_name="noticias")
        said = await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/ {site.url}/late")
        for client in (omar, elsewhere):
            assert [found["title"] for found in await previews(client, said["id"])] == ["Menu"]
        assert site.asked == {"/": 1, "/late": 1}
        site.pages["/late"] = titled("Late")
        now[0] += 3601
        titles = [found["title"] for found in await previews(elsewhere, said["id"])]
        assert titles == ["Menu", "Late"]
        assert site.asked == {"/": 1, "/late": 2}
        now[0] += 24 * 3600
        await previews(omar, said["id"])
        assert site.asked == {"/": 2, "/late": 3}


async def test_one_user_has_only_so_many_pages_fetched(sqlite_url: str, tmp_path: Path, site: Site) -> None:
    async with running_node(
        sqlite_url, tmp_path, options=PRIVATE, rate_limits="on", rates="previews=1/hour"
    ) as server:
        site.pages["/1"] = site.pages["/2"] = titled("Menu")
        headers = {"Authorization": f"Bearer {await server.register('omar')}"}
        async with (
            connected(server.url, await server.login("omar")) as omar,
            httpx.AsyncClient(base_url=server.url, verify=NO_TLS, headers=headers) as http,
        ):
            room = await omar.ask("create", topic_name="noticias")
            said = [
                (await omar.ask("message", room_id=room["room_id"], content=f"{site.url}/{n}"))["id"] for n in (1, 2)
            ]
            assert await previews(omar, said[0])
            answer = (await http.post("/api/previews", json={"message_ids": said})).json()
            assert [found["message_id"] for found in answer["previews"]] == said[:1]
            assert answer["pending"] == said[1:]
    assert site.asked == {"/1": 1}


async def test_the_cache_drops_what_expires_first(server: RunningNode) -> None:
    def fill(conn: Connection) -> set[str]:
        for number in range(6):
            queries.save(conn, str(number), PreviewRow("Menu", None, None), expires_at=100 + number)
        queries.drop(conn, now=100, most=3)
        return set(queries.load(conn, list("012345"), now=0))

    assert await server.node.database.write(fill) == {"3", "4", "5"}


@pytest.mark.parametrize(
    ("content", "links"),
    [
        ("https://a.example/x, https://b.example.", ["https://a.example/x", "https://b.example"]),
        ("(see https://a.example/x_(y))", ["https://a.example/x_(y)"]),
        ("**https://a.example** [b](https://b.example/c?d=e)", ["https://a.example", "https://b.example/c?d=e"]),
        ("<https://a.example> `https://b.example`\n```\nhttps://c.example\n```", []),
        ("HTTPS://a.example https://a.example", ["HTTPS://a.example", "https://a.example"]),
        ("https://bücher.example/ü ftp://a.example https://me:pw@a.example https://", ["https://bücher.example/ü"]),
        ("https://a.example:99999 https://[::1 xhttps://a.example", []),
        (" ".join(f"https://{letter}.example" for letter in "abcd"), [f"https://{x}.example" for x in "abc"]),
    ],
)
def test_the_links_of_a_message(content: str, links: list[str]) -> None:
    assert links_in(content) == links
