"""An error names the wrong field and the values that it accepts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actions.conftest import People
from tests.support.client import Refused


@pytest.mark.parametrize(
    ("action", "payload", "field", "why"),
    [
        ("get_members", {"topic_name": "noticias", "after": "a b"}, "after", "not allowed"),
        ("get_bans", {"topic_name": "noticias", "after": "a b"}, "after", "not allowed"),
        ("get_rooms", {"kind": "x"}, "kind", "one of topic, direct, group"),
        ("get_rooms", {"kind": 1}, "kind", "one of topic, direct, group"),
        ("set_role", {"topic_name": "x", "username": "y", "role": "x"}, "role", "one of owner, moderator, member"),
        ("set_role", {"topic_name": "x", "username": "y", "role": None}, "role", "one of owner, moderator, member"),
        ("delivered", {"cursors": {"room": -1}}, "cursors.room", "greater than or equal to 0"),
        ("delivered", {"cursors": {f"{n}": -1 for n in range(9_000)}}, "cursors.19", "greater than or equal to 0"),
        ("delivered", {"cursors": {f"{n}": 1 for n in range(10_001)}}, "cursors", "more than 10,000 rooms"),
    ],
)
async def test_an_error_names_the_field_and_its_valid_values(
    people: People, action: str, payload: dict[str, Any], field: str, why: str
) -> None:
    await people.omar.ask("create", topic_name="noticias")
    with pytest.raises(Refused) as refused:
        await people.omar.ask(action, payload)
    assert refused.value.code == "invalid"
    assert why in refused.value.details["fields"][field]
    assert field in refused.value.error["message"]


async def test_a_room_kind_is_accepted_as_text_or_null(people: People) -> None:
    await people.omar.ask("create", topic_name="noticias")
    assert [room["topic_name"] for room in (await people.omar.ask("get_rooms", kind="topic"))["rooms"]] == [
        "noticias"
    ]
    assert len((await people.omar.ask("get_rooms", {"kind": None}))["rooms"]) == 1
