"""Valid payloads of actions, from the examples in the documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tidings.actions.dispatch import Action
from tidings.contract.actions import RoomRef
from tidings.gateways.schemas import Schemas

ROOM = ("room_id", "topic_name")
"""Fields that name a room in every payload that has them."""


def example(action: Action, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the payload that the documents show for the action, without some of its fields."""
    schemas = Schemas(received=[action.request])
    shown: dict[str, Any] = schemas.example(schemas.ref(action.request))
    return {name: value for name, value in shown.items() if name not in without}


def beside_the_room(action: Action) -> dict[str, Any]:
    """Return what a payload holds beside the reference to its room."""
    reference = RoomRef.model_fields if issubclass(action.request, RoomRef) else ROOM
    return example(action, without=reference)
