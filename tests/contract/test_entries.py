"""Every kind of entry is sent as an event that moves the client's cursor."""

from __future__ import annotations

from tidings.contract.events import ENTRIES, EVENTS
from tidings.log.views import RoomName, event
from tidings_db.queries.rows import EntryRow

ROOM = RoomName(1, "r", "noticias", False)


def entry(kind: str, body: str) -> EntryRow:
    return EntryRow(1, 7, kind, "m", 1, "omar", None, "hola", None, body, 1, 0, None, False)


def test_every_kind_of_entry_has_an_event_with_a_seq() -> None:
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


def test_an_unknown_kind_of_entry_still_moves_the_cursor() -> None:
    poll = {"room_id": "r", "seq": 7, "username": "omar", "question": "¿Vamos?"}
    assert event(ROOM, entry("poll", '{"question": "¿Vamos?"}')) == ("poll", poll)
