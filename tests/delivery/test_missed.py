"""A missed entry is written exactly like a live one."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgpack
import orjson
import pytest
from sqlalchemy.engine import Connection as Transaction

from tests.delivery.entries import entries_of
from tests.delivery.support import make_topic
from tests.support.node import RunningNode
from tidings.contract.events import EVENTS
from tidings.contract.models import ApplicationEvent
from tidings.fanout.connection import EventCodec
from tidings.fanout.pages import read_page
from tidings.log.views import RoomName, event, message_of
from tidings.transport.socketio_codecs import MsgpackCodec, TextCodec
from tidings_db.queries import log, rooms, users
from tidings_db.queries.log import Span
from tidings_db.queries.rows import EntryRow


@pytest.mark.parametrize("codec", [TextCodec(), MsgpackCodec()], ids=["json", "msgpack"])
async def test_a_missed_entry_is_encoded_exactly_like_a_live_one(server: RunningNode, codec: EventCodec) -> None:
    token, other = await server.register("omar"), await server.register("diego")
    room_ids = [await make_topic(server.url, token, name, other) for name in ("noticias", 'a "b"')]
    database = server.node.database
    written: dict[int, list[EntryRow]] = {}
    keys: dict[str, int] = {}

    def fill(conn: Transaction) -> None:
        for name in ("omar", "diego"):
            user = users.by_key(conn, name)
            assert user is not None
            keys[name] = user.key
        for room_id in room_ids:
            room = rooms.find(conn, room_id=room_id)
            assert room is not None
            written[room.key] = entries_of(room.key, keys, room.last_seq)
            log.add(conn, written[room.key])

    await database.write(fill)
    # The second has no name, like a conversation.
    names = {
        key: RoomName(key, room_id, topic, False)
        for key, room_id, topic in zip(written, room_ids, ["noticias", None], strict=True)
    }
    spans = [Span(key, entries[0].seq - 1, entries[-1].seq) for key, entries in written.items()]
    for wanted in (spans[:1], spans[1:], spans):
        for me in keys.values():
            page = await database.read(
                partial(read_page, user_key=me, spans=wanted, names=names, codec=codec, max_bytes=10_000_000)
            )
            assert page.covered == wanted
            messages = [message for chunk in page.chunks for message in chunk.messages]
            entries = [entry for span in wanted for entry in written[span.room_key]]
            positions = [(chunk.room_key, seq) for chunk in page.chunks for seq in range(chunk.first, chunk.last + 1)]
            assert positions == [(entry.room_key, entry.seq) for entry in entries]
            events = [
                event(names[entry.room_key], entry, to_sender=message_of(entry).sender_key == me) for entry in entries
            ]
            assert messages == [codec.encode(name, payload) for name, payload in events]
            for message, (name, _) in zip(messages, events, strict=True):
                _, payload = decoded(message)
                model = EVENTS.get(name, ApplicationEvent)
                assert model.model_validate(payload).model_dump(mode="json", exclude_unset=True) == payload
            payloads = [decoded(message)[1] for message in messages]
            client_ids = [payload.get("message", payload).get("client_id") for payload in payloads]
            expected = [
                message_of(entry).client_id if message_of(entry).sender_key == me else None for entry in entries
            ]
            assert client_ids == expected


def decoded(message: bytes) -> list[Any]:
    if message.startswith(b"42"):
        event_and_payload: list[Any] = orjson.loads(message[2:])
    else:
        event_and_payload = msgpack.unpackb(message)["data"]
    return event_and_payload
