"""Helpers of the search tests: searching, waiting for the index, and comparing it with the logs."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Connection, insert, select, text

from tests.support.client import DEADLINE_S, Client
from tidings.log.indexer import Indexer
from tidings_db.engine import Database
from tidings_db.models import entries, members, rooms, users
from tidings_db.queries import log, search
from tidings_db.queries.rows import EntryRow
from tidings_db.queries.words import marks, words


async def search_contents(client: Client, query: str, **fields: Any) -> list[str]:
    """The contents of the messages found, newest first."""
    answer = await client.ask("search", query=query, **fields)
    assert set(answer["snippets"]) == {message["id"] for message in answer["messages"]}
    return [message["content"] for message in answer["messages"]]


async def caught_up(indexer: Indexer) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await indexer.caught_up()


async def index_all(database: Database) -> None:
    """Index all logs to their heads, as a starting server does."""
    indexer = Indexer(database)
    await indexer.start()
    try:
        await caught_up(indexer)
    finally:
        await indexer.stop()


def fill(conn: Connection, contents: dict[int, list[str]]) -> None:
    """Create rooms with messages (room -> contents), 1 ms apart; user 1 is a member of all."""
    conn.execute(
        insert(users).values(id=1, username="ana", username_key="ana", created_at=0, disabled=False, admin=False)
    )
    clock = 0
    for room_key, room_contents in contents.items():
        head = len(room_contents)
        conn.execute(
            insert(rooms).values(
                id=room_key,
                room_id=f"r{room_key}",
                kind="group",
                is_private=True,
                first_seq=1,
                last_seq=head,
                messages=head,
                last_message_seq=head,
                members=1,
                created_at=0,
            )
        )
        conn.execute(
            insert(members).values(
                room_id=room_key, user_id=1, role="owner", joined_at=0, joined_seq=0, blocked=False
            )
        )
        new = []
        for seq, content in enumerate(room_contents, 1):
            clock += 1
            message = EntryRow(
                room_key,
                seq,
                "message",
                f"{room_key}-{seq}",
                1,
                "ana",
                None,
                content,
                None,
                None,
                seq,
                clock,
                None,
                False,
            )
            new.append(message)
        log.add(conn, new)


def change(conn: Connection, room_key: int, seq: int, content: str | None) -> None:
    """Edit a message, or delete it (None), with an entry at the head of the room."""
    message = log.at(conn, [(room_key, seq)])[room_key, seq]
    if message.deleted:  # a deleted message cannot change
        return
    deleted = content is None
    log.rewrite(conn, message._replace(content=content, deleted=deleted, edited_at=None if deleted else 1))
    head = conn.execute(select(rooms.c.last_seq).where(rooms.c.id == room_key)).scalar_one() + 1
    kind = "delete" if deleted else "edit"
    entry = EntryRow(
        room_key, head, kind, None, 1, "ana", None, None, None, None, message.messages, 0, None, False, seq
    )
    log.add(conn, [entry])
    conn.execute(rooms.update().where(rooms.c.id == room_key).values(last_seq=head))


def indexed(conn: Connection) -> dict[tuple[int, int], list[str]]:
    """The words of every indexed message, as the database stores them: (room, seq) -> sorted words."""
    column = "words" if conn.dialect.name == "sqlite" else "array_to_string(tsvector_to_array(words), ' ')"
    key = "search_words.rowid" if conn.dialect.name == "sqlite" else "search_words.id"
    rows = conn.execute(
        text(f"SELECT d.room_id, d.seq, {column} FROM search_document d JOIN search_words ON {key} = d.id")
    ).all()
    if conn.dialect.name == "sqlite":
        conn.exec_driver_sql("INSERT INTO search_words (search_words) VALUES ('integrity-check')")
    return {(room_key, seq): sorted(set(stored.split())) for room_key, seq, stored in rows}


def expected_index(conn: Connection) -> dict[tuple[int, int], list[str]]:
    """As `indexed`, computed from the logs."""
    messages = select(entries.c.room_id, entries.c.seq, entries.c.sender_id, entries.c.content).where(
        entries.c.kind == "message", entries.c.deleted.is_(False)
    )
    return {
        (room_key, seq): sorted({f"{room_key}·{term}" for term in words(content) + marks(sender_key, content)})
        for room_key, seq, sender_key, content in conn.execute(messages)
    }


def assert_index_is_of_the_logs(conn: Connection) -> None:
    assert indexed(conn) == expected_index(conn)


def write_step(conn: Connection, step: search.Step) -> set[int]:
    """Encode a step and write it; returns the rooms that were indexed."""
    return search.write_step(conn, search.encode_step(step, conn.dialect.name))
