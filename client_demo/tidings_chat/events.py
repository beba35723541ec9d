"""Events of the wire as models of the contract."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from tidings.contract.events import EVENTS
from tidings.contract.models import ApplicationEvent, View


def read_event(name: str, data: dict[str, Any]) -> View | None:
    """None for an event that is neither Tidings' nor published to a room, or that this version cannot read."""
    model = EVENTS.get(name, ApplicationEvent)
    if model is ApplicationEvent and data.get("event") != name:
        return None
    try:
        return model.model_validate(data, extra="ignore")
    except ValidationError:
        return None
