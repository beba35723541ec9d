"""Every entry is sent as an event by which a client moves its cursor, whatever its kind."""

from __future__ import annotations

from db.queries.rows import EntryRow
from server.contract.events import ENTRIES, EVENTS
from server.log.views import RoomName, event

ROOM = RoomName(1, "r", "noticias", False)


def entry(kind: str, body: str) -> EntryRow:
    return EntryRow(1, 7, kind, "m", 1, "omar", None, "hola", None, body, 1, 0, None, False)


def test_every_kind_has_an_event_with_a_place_in_the_log() -> None:
    for kind, name in ENTRIES.items():
        assert {"room_id", "seq"} <= EVENTS[name].model_fields.keys(), kind


def test_an_entry_names_its_author_unless_its_body_names_another_user() -> None:
    renamed = {"room_id": "r", "seq": 7, "username": "omar", "title": "dos"}
    assert event(ROOM, entry("title", '{"title": "dos"}')) == ("room_changed", renamed)
    kicked = {"room_id": "r", "seq": 7, "username": "diego", "change": "kicked", "role": None}
    assert event(ROOM, entry("member", '{"username": "diego", "change": "kicked", "role": null}')) == (
        "member",
        kicked,
    )


def test_a_kind_of_a_newer_server_still_moves_a_cursor() -> None:
    asked = {"room_id": "r", "seq": 7, "username": "omar", "question": "¿Vamos?"}
    assert event(ROOM, entry("poll", '{"question": "¿Vamos?"}')) == ("poll", asked)
