"""Usernames and topics of a database from before usernames kept their spelling still work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import bcrypt
import httpx
from sqlalchemy import Connection, text

import tidings_db.schema
from tests.db.test_schema import run, upgrade_to
from tests.support.client import connected
from tests.support.node import NO_TLS, PASSWORD, running_node

MIXED = "\u0430dmin"
"""The first letter is Cyrillic."""
TOPICS = ("general", "general\ufe00", "notes\u180b", "\u2800", "\u3164")


def _fill(password_hash: str) -> Callable[[Connection], None]:
    """Insert users and topics in the schema of revision 0003."""

    def fill(conn: Connection) -> None:
        def add(table: str, **row: object) -> None:
            columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)
            conn.execute(text(f'INSERT INTO "{table}" ({columns}) VALUES ({values})'), row)

        for number, name in enumerate(["omar", "admin", MIXED, "élodie"], 1):
            add("name", key=name, kind="user")
            common = {"created_at": 1, "disabled": False, "admin": False}
            add("user", id=number, username=name, password_hash=password_hash, **common)
        for number, name in enumerate(TOPICS, 1):
            add("name", key=name, kind="topic")
            zeros = dict.fromkeys(("first_messages", "last_seq", "messages", "last_message_seq"), 0)
            about = {"room_id": f"{number:024x}", "kind": "topic", "is_private": False, "topic_name": name}
            add("room", id=number, **about, name_key=name, first_seq=1, members=1, created_at=1, **zeros)
            membership = {"role": "owner", "joined_at": 1, "joined_seq": 0, "blocked": False}
            add("member", room_id=number, user_id=1, **membership)
        if conn.dialect.name == "postgresql":
            for table, last in (("user", 4), ("room", len(TOPICS))):
                conn.execute(text(f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), {last})"))

    return fill


async def test_users_and_topics_of_an_older_database_keep_their_names(empty_url: str, tmp_path: Path) -> None:
    await asyncio.to_thread(upgrade_to, empty_url, "0003")
    password_hash = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await run(empty_url, _fill(password_hash))
    await asyncio.to_thread(tidings_db.schema.migrate, empty_url)
    async with (
        running_node(empty_url, tmp_path) as node,
        httpx.AsyncClient(base_url=node.url, verify=NO_TLS, timeout=30) as http,
    ):
        for name in ("omar", "admin", MIXED, "élodie"):
            for typed in (name, name.upper()):
                login = await http.post("/api/login", json={"username": typed, "password": PASSWORD})
                assert login.status_code == 200, login.text
                assert login.json()["user"]["username"] == name
            taken = await http.post("/api/register", json={"username": name.title(), "password": PASSWORD})
            assert taken.status_code in (409, 422)
        assert (
            await http.post("/api/register", json={"username": "adrnin", "password": PASSWORD})
        ).status_code == 409
        async with connected(node.url, await node.login("omar")) as omar:
            names = [room["topic_name"] for room in (await omar.ask("get_rooms", member=True))["rooms"]]
            assert len(set(names)) == len(TOPICS)
            for name in names:
                room = (await omar.ask("message", topic_name=name, content=name))["room_id"]
                assert [m["content"] for m in (await omar.ask("history", room_id=room))["messages"]] == [name]
            by_id = {room["room_id"]: room["topic_name"] for room in (await omar.ask("get_rooms"))["rooms"]}
            assert by_id[f"{1:024x}"] == "general"
            assert by_id[f"{2:024x}"] == "general\ufe00 (000000000002)"
            assert by_id[f"{3:024x}"] == "notes\u180b"
            assert by_id[f"{4:024x}"].endswith("(000000000004)")
