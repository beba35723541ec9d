"""A message with a file is acknowledged when the file is as durable as its text; only its readers get the file."""

from __future__ import annotations

import asyncio
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from tests.actions.conftest import code
from tests.delivery.support import make_topic
from tests.files.support import (
    begin,
    begun_part,
    cut,
    fetch,
    http,
    links,
    moved_on,
    offset_of,
    picture,
    put,
    stored,
    upload,
)
from tests.search.support import caught_up
from tests.support.backend_keys import make_key
from tests.support.client import DEADLINE_S, connected
from tests.support.exports import exported, of
from tests.support.node import RunningNode, running_node
from tidings.contract.permissions import KeyScope
from tidings.log.retention import now_ms

CUTS = 20


async def test_an_upload_that_is_cut_twenty_times_is_resumed(
    database_url: str, tmp_path: Path, files_url: str
) -> None:
    content = random.Random(7).randbytes(2_500_000)
    async with running_node(database_url, tmp_path, files_url=files_url) as node:
        omar, diego = await node.register("omar"), await node.register("diego")
        room_id = await make_topic(node.url, omar, "fotos", diego)
        begun = await begin(node, omar, "datos.bin", len(content))
        offset = begun["offset"]
        for _ in range(CUTS):
            await cut(node, omar, begun["url"], content, offset, 110_000)
            durable = await moved_on(node, omar, begun["url"], offset)
            assert offset < durable <= offset + 110_000
            offset = durable
        refused = await put(node, omar, begun["url"], content[:100_000], 0)
        assert (refused.status_code, refused.json()["details"]) == (409, {"offset": offset, "size": len(content)})
        answer = await put(node, omar, begun["url"], content[offset:], offset)
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(len(content)))
        async with connected(node.url, omar) as client:
            sent = await client.ask("message", room_id=room_id, content="", files=[{"id": begun["id"]}])
        assert sent["files"] == [
            {
                "id": begun["id"],
                "name": "datos.bin",
                "type": "application/octet-stream",
                "size": len(content),
                "width": None,
                "height": None,
                "alt": None,
            }
        ]
        [linked] = await links(node, diego, begun["id"])
        assert (await fetch(node, linked["url"])).content == content
        part = await fetch(node, linked["url"], Range="bytes=1000-1999")
        assert (part.status_code, part.content) == (206, content[1000:2000])
        assert part.headers["Content-Range"] == f"bytes 1000-1999/{len(content)}"
        assert (await fetch(node, linked["url"], Range="bytes=-5")).content == content[-5:]
        assert (await fetch(node, linked["url"], Range=f"bytes={len(content)}-")).status_code == 416


async def test_a_second_part_is_refused_unread_while_one_is_received(database_url: str, tmp_path: Path) -> None:
    content = random.Random(9).randbytes(500_000)
    async with running_node(database_url, tmp_path) as node:
        omar = await node.register("omar")
        begun = await begin(node, omar, "datos.bin", len(content))
        async with begun_part(node, omar, begun["url"], content, 0, 300_000) as (reader, writer):
            async with asyncio.timeout(DEADLINE_S):
                while not [path async for path in anyio.Path(tmp_path).rglob("part")]:
                    await offset_of(node, omar, begun["url"])
            refused = await put(node, omar, begun["url"], content)
            assert (refused.status_code, refused.json()["details"]) == (409, {"offset": 0, "size": len(content)})
            writer.write(content[300_000:])
            assert b" 204 " in await reader.readline()
        assert await offset_of(node, omar, begun["url"]) == len(content)


async def test_an_upload_goes_on_at_another_node_and_every_node_serves_it(
    postgresql_url: str, tmp_path: Path, files_url: str
) -> None:
    content = random.Random(8).randbytes(1_000_000)
    async with (
        running_node(postgresql_url, tmp_path, files_url=files_url) as first,
        running_node(postgresql_url, tmp_path, files_url=files_url) as second,
    ):
        omar, diego = await first.register("omar"), await first.register("diego")
        room_id = await make_topic(first.url, omar, "fotos", diego)
        begun, offset, nodes = await begin(first, omar, "datos.bin", len(content)), 0, (first, second)
        for turn in range(8):
            await cut(nodes[turn % 2], omar, begun["url"], content, offset, 100_000)
            offset = await moved_on(nodes[turn // 2 % 2], omar, begun["url"], offset)
        # Of two parts that come at the same time, one is taken.
        answers = await asyncio.gather(*(put(node, omar, begun["url"], content[offset:], offset) for node in nodes))
        assert 204 in [answer.status_code for answer in answers]
        assert {answer.status_code for answer in answers} <= {204, 409}
        async with connected(second.url, diego) as reader, connected(first.url, omar) as sender:
            await sender.ask("message", room_id=room_id, content="aquí", files=[{"id": begun["id"]}])
            event = await reader.event("message")
            assert event["files"][0]["name"] == "datos.bin"
        for node in nodes:
            [linked] = await links(node, diego, begun["id"])
            assert (await fetch(node, linked["url"])).content == content


@pytest.fixture
async def omar(server: RunningNode) -> str:
    return await server.register("omar")


@pytest.fixture
async def diego(server: RunningNode) -> str:
    return await server.register("diego")


async def test_a_message_has_its_files_everywhere_and_an_upload_is_in_one_message_only(
    server: RunningNode, omar: str, diego: str
) -> None:
    room_id = await make_topic(server.url, omar, "fotos", diego)
    first, second = [await upload(server, omar, f"{n}.txt", b"hola") for n in (1, 2)]
    unfinished = (await begin(server, omar, "3.txt", 10))["id"]
    others = await upload(server, diego, "4.txt", b"hola")
    await server.register("satoshi")
    async with connected(server.url, omar) as client, connected(server.url, diego) as reader:
        for wrong in ([unfinished], [others], ["nothing"], [first, first], [first, unfinished]):
            assert await code(client, "message", room_id=room_id, content="x", files=[{"id": one} for one in wrong])
            assert await code(
                client, "message", username="satoshi", content="x", files=[{"id": one} for one in wrong]
            )
        assert (await client.ask("get_rooms", kind="direct"))["rooms"] == [], (
            "a refused message opens no conversation"
        )
        assert await code(client, "message", room_id=room_id, content="", files=[]) == "invalid"
        named = [{"id": second, "alt": "  the second "}, {"id": first}]
        sent = await client.ask("message", room_id=room_id, content="dos", client_id="once", files=named)
        assert [(file["id"], file["alt"]) for file in sent["files"]] == [(second, "the second"), (first, None)]
        assert await client.ask("message", room_id=room_id, content="dos", client_id="once", files=named) == sent
        assert await code(client, "message", room_id=room_id, content="again", files=[{"id": first}]) == "invalid"
        event = await reader.event("message")
        assert event["files"] == sent["files"]
        edited = await client.ask("edit", message_id=sent["id"], content="")
        assert edited["files"] == sent["files"]
        await client.ask("react", message_id=sent["id"], emoji="🌊")
        assert (await reader.event("reaction"))["message"]["files"] == sent["files"]
    async with connected(server.url, diego, device="new", cursors={room_id: 0}) as later:
        assert (await later.event("message"))["files"] == sent["files"]
        history = await later.ask("history", room_id=room_id)
        assert history["messages"][0]["files"] == sent["files"]


async def test_files_are_for_readers_of_their_message_alone_at_every_moment(
    server: RunningNode, omar: str, diego: str
) -> None:
    satoshi = await server.register("satoshi")
    room_id = await make_topic(server.url, omar, "fotos", diego)
    file_id = await upload(server, omar, "a.txt", b"for members")
    assert await links(server, diego, file_id) == []
    [own] = await links(server, omar, file_id)
    assert (await fetch(server, own["url"])).content == b"for members"
    async with connected(server.url, omar) as client:
        sent = await client.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
        assert await links(server, satoshi, file_id) == []
        [linked] = await links(server, diego, file_id)
        assert linked == {**linked, "name": "a.txt", "type": "text/plain", "size": 11, "preview_url": None}
        assert (await fetch(server, linked["url"])).status_code == 200
        forged = linked["url"].replace(file_id, await upload(server, omar, "b.txt", b"another"))
        for url in (forged, linked["url"].partition("?")[0], linked["url"] + "x", linked["url"] + "&preview=1"):
            assert (await fetch(server, url)).status_code in (401, 404), url
        await client.ask("kick", room_id=room_id, username="diego")
        assert (await fetch(server, linked["url"])).status_code == 404
        [linked] = await links(server, omar, file_id)
        await client.ask("delete", message_id=sent["id"])
        assert (await fetch(server, linked["url"])).status_code == 404
        assert await links(server, omar, file_id) == []
        [message] = (await client.ask("history", room_id=room_id))["messages"]
        assert message["deleted"]
        assert "files" not in message


async def test_a_link_ends_with_its_session(server: RunningNode, omar: str) -> None:
    [linked] = await links(server, omar, await upload(server, omar, "a.txt", b"mine"))
    async with http(server, omar) as client:
        assert (await client.post("/api/logout")).status_code == 204
    assert (await fetch(server, linked["url"])).status_code == 401


async def test_the_content_of_a_file_is_deleted_with_its_message_and_that_of_an_upload_after_a_day(
    server: RunningNode, omar: str
) -> None:
    room_id = await make_topic(server.url, omar, "fotos")
    kept, deleted, forgotten = [await upload(server, omar, f"{n}.jpg", picture()) for n in "abc"]
    unfinished = await begin(server, omar, "d.bin", 200_000)
    await cut(server, omar, unfinished["url"], b"x" * 200_000, 0, 100_000)
    withdrawn = await upload(server, omar, "e.txt", b"never mind")
    async with connected(server.url, omar) as client:
        await client.ask("message", room_id=room_id, content="", files=[{"id": kept}])
        sent = await client.ask("message", room_id=room_id, content="", files=[{"id": deleted}])
        await moved_on(server, omar, unfinished["url"], 0)
        await client.ask("delete", message_id=sent["id"])
        await client.ask("delete_upload", file_id=withdrawn)
        assert await code(client, "delete_upload", file_id=withdrawn) == "not_found"
        assert await code(client, "delete_upload", file_id=kept) == "not_found"
        await server.node.files.run_once(now_ms())
        names = {path.parent.name for path in stored(server)}
        assert names == {kept, forgotten, unfinished["id"]}
        await server.node.files.run_once(now_ms() + 25 * 3600 * 1000)
        assert sorted(path.name for path in stored(server)) == ["content", "preview"]
        assert (await client.ask("history", room_id=room_id))["messages"][0]["files"][0]["id"] == kept
        assert await code(client, "message", room_id=room_id, content="", files=[{"id": forgotten}]) == "invalid"


async def test_what_a_user_stores_is_bounded_and_deleting_makes_room(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, quotas="files=100000", file_bytes=60_000) as node:
        omar = await node.register("omar")
        async with connected(node.url, omar) as client:
            assert await code(client, "create_upload", name="a", size=60_001) == "too_large"
            first = await client.ask("create_upload", name="a", size=60_000)
            assert await code(client, "create_upload", name="b", size=40_001) == "too_large"
            assert (await put(node, omar, first["url"], b"x" * 60_001)).status_code == 413
            await client.ask("delete_upload", file_id=first["id"])
            await node.node.files.run_once(now_ms())
            await client.ask("create_upload", name="b", size=60_000)


async def test_an_image_loses_its_metadata_is_turned_upright_and_gets_a_preview(
    server: RunningNode, omar: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    exif.get_ifd(0x8825)[2] = (41.0, 24.0, 12.0)  # where it was taken
    taken = picture((1200, 600), exif=exif, comment=b"secret words")
    file_id = await upload(server, omar, "../../etc/pl\u202eaya.jpg", taken)
    [linked] = await links(server, omar, file_id)
    assert (linked["name"], linked["type"], linked["width"], linked["height"]) == (
        "playa.jpg",
        "image/jpeg",
        600,
        1200,
    )
    content = await fetch(server, linked["url"])
    assert len(content.content) == linked["size"]
    assert b"secret words" not in content.content
    with Image.open(BytesIO(content.content)) as image:
        assert (image.size, dict(image.getexif())) == ((600, 1200), {})
    preview = await fetch(server, linked["preview_url"])
    with Image.open(BytesIO(preview.content)) as image:
        assert (image.format, image.size) == ("WEBP", (400, 800))
    assert content.headers["Content-Disposition"] == "inline; filename*=utf-8''playa.jpg"


async def test_an_animation_stays_one(server: RunningNode, omar: str) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "green", "blue")]
    target = BytesIO()
    frames[0].save(target, "GIF", save_all=True, append_images=frames[1:], duration=70)
    [linked] = await links(server, omar, await upload(server, omar, "a.gif", target.getvalue()))
    with Image.open(BytesIO((await fetch(server, linked["url"])).content)) as image:
        assert (image.n_frames, image.info["duration"]) == (3, 70)  # type: ignore[attr-defined]


async def test_a_file_is_complete_though_its_sender_went_away_and_again_after_a_crash(
    server: RunningNode, omar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture()
    begun = await begin(server, omar, "a.jpg", len(content))

    async def fails(*_: object) -> Any:
        raise OSError("the machine stops here")

    with monkeypatch.context() as patch:
        patch.setattr("tidings.files.uploads._examine", fails)
        assert (await put(server, omar, begun["url"], content)).status_code == 500
    assert await offset_of(server, omar, begun["url"]) == len(content)
    assert (await put(server, omar, begun["url"], b"", len(content))).status_code == 204
    # What is complete takes no more, though an image that was encoded again may be larger than its upload.
    assert (await put(server, omar, begun["url"], b"", len(content))).status_code == 204
    assert (await put(server, omar, begun["url"], b"more", len(content))).headers["Upload-Offset"] == str(
        len(content)
    )
    assert (await links(server, omar, begun["id"]))[0]["type"] == "image/jpeg"


async def test_retention_deletes_files_with_their_messages(database_url: str, tmp_path: Path) -> None:
    async with running_node(database_url, tmp_path, retention_topic_days=1) as node:
        omar = await node.register("omar")
        room_id = await make_topic(node.url, omar, "fotos")
        file_id = await upload(node, omar, "a.txt", b"old")
        async with connected(node.url, omar) as client:
            await client.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
        later = now_ms() + 2 * 24 * 3600 * 1000
        await node.node.retention.run_once(later)
        await node.node.files.run_once(now_ms())
        assert stored(node) == []


async def test_the_names_of_files_are_found(server: RunningNode, omar: str) -> None:
    room_id = await make_topic(server.url, omar, "fotos")
    async with connected(server.url, omar) as client:
        file_id = await upload(server, omar, "informe-anual.pdf", b"%PDF-1.7 nothing")
        sent = await client.ask("message", room_id=room_id, content="mira", files=[{"id": file_id}])
        await client.ask("message", room_id=room_id, content="nothing else")
        await caught_up(server.node.indexer)
        for query, snippet in (
            ("informe", [("mira\n", False), ("informe", True), ("-anual.pdf", False)]),
            ("anual mira", [("mira", True), ("\ninforme-", False), ("anual", True), (".pdf", False)]),
            ("has:file", [("mira\ninforme-anual.pdf", False)]),
        ):
            found = await client.ask("search", query=query)
            assert [message["id"] for message in found["messages"]] == [sent["id"]], query
            assert [(part["text"], part["match"]) for part in found["snippets"][sent["id"]]] == snippet, query


async def test_an_export_names_the_files_of_messages_and_all_that_the_user_has_uploaded(
    server: RunningNode, omar: str, diego: str
) -> None:
    room_id = await make_topic(server.url, omar, "fotos", diego)
    sent, waiting, gone, others = [
        await upload(server, token, f"{n}.txt", b"hola") for n, token in enumerate((omar, omar, omar, diego))
    ]
    unfinished = (await begin(server, omar, "4.txt", 10))["id"]
    async with connected(server.url, omar) as client, connected(server.url, diego) as other:
        files = [{"id": sent, "alt": "hello"}]
        message = await client.ask("message", room_id=room_id, content="", files=files)
        await other.ask("message", room_id=room_id, content="", files=[{"id": others}])
        await client.ask("delete_upload", file_id=gone)
    lines = await exported(server, omar)
    assert [line["files"] for line in of(lines, "message")] == [message["files"]]
    kept = of(lines, "file")
    assert [(line["id"], line["media_type"]) for line in kept] == [
        (sent, "text/plain"),
        (waiting, "text/plain"),
        (unfinished, None),
    ]
    assert (kept[0]["room_id"], kept[0]["seq"], kept[0]["expires_at"]) == (room_id, message["seq"], None)
    assert kept[1]["expires_at"] > kept[1]["created_at"]


async def test_files_may_have_an_origin_of_their_own_which_the_page_allows_for_what_it_shows(
    sqlite_url: str, tmp_path: Path
) -> None:
    origin, static = "https://files.example.org", tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<!doctype html><title>Tidings</title>")
    own = {"files_origin": origin, "public_url": "https://chat.example.org", "allowed_hosts": ["127.0.0.1"]}
    async with running_node(sqlite_url, tmp_path, options={"static": static}, **own) as node:
        omar = await node.register("omar")
        [linked] = await links(node, omar, await upload(node, omar, "a.jpg", picture()))
        for url in (linked["url"], linked["preview_url"]):
            assert url.startswith(f"{origin}/files/{linked['id']}/")
            answer = await fetch(node, url.removeprefix(origin), Host="files.example.org")
            assert (answer.status_code, answer.headers["Cross-Origin-Resource-Policy"]) == (200, "cross-origin")
        policy = (await fetch(node, "/", Host="chat.example.org")).headers["Content-Security-Policy"].split("; ")
        assert [part.split(" ")[0] for part in policy if origin in part] == ["img-src", "media-src"]


async def test_a_key_gets_links_that_work_also_as_another_user_while_that_user_may_read(
    server: RunningNode, omar: str, diego: str
) -> None:
    room_id = await make_topic(server.url, omar, "fotos", diego)
    key = await make_key(server, KeyScope.ACT, KeyScope.READ)
    async with connected(server.url, omar) as client:
        file_id = await upload(server, omar, "a.txt", b"for members")
        await client.ask("message", room_id=room_id, content="", files=[{"id": file_id}])
        async with http(server, key) as backend:
            for headers in ({}, {"Tidings-User": "diego"}):
                asked = await backend.post("/api/file-links", json={"file_ids": [file_id]}, headers=headers)
                [linked] = asked.json()["files"]
                assert (await fetch(server, linked["url"])).content == b"for members"
        await client.ask("kick", room_id=room_id, username="diego")
        assert (await fetch(server, linked["url"])).status_code == 404
