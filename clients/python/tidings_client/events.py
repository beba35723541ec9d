"""The events of applications, whose data has the type that the program gave to `connect(events=…)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tidings.contract import models
from tidings_client.contract import read
from tidings_client.errors import InvalidEvent


class ApplicationEvent(models.ApplicationEvent):
    data: Any
    """Of the event's type; as it was published, if the event has none."""


class EventTypes:
    def __init__(self, types: Mapping[str, Any]) -> None:
        self._types: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in types.items()}

    def read(self, data: Any) -> ApplicationEvent:
        """Raises `InvalidEvent` if the event's own data is not of its type."""
        event = read(ApplicationEvent, data)
        if event.event not in self._types:
            return event
        return event.model_copy(update={"data": self._validated(event.event, event.data, event)})

    def dump(self, name: str, data: Any) -> Any:
        """The JSON value of an event's data. Raises `InvalidEvent` if it is not of its type."""
        kind = self._types.get(name)
        return data if kind is None else kind.dump_python(self._validated(name, data), mode="json")

    def _validated(self, name: str, data: Any, event: ApplicationEvent | None = None) -> Any:
        try:
            return self._types[name].validate_python(data)
        except ValidationError as error:
            problems = {".".join(map(str, each["loc"])): each["msg"] for each in error.errors()}
            raise InvalidEvent(name, problems, event) from None
