"""The dialects of the server. A new one adds a line to each of these tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tidings.gateways.dialects import channels_routes, messenger_routes, rooms, topics
from tidings.gateways.dialects.routes import DialectRoute, Tag

DIALECTS: Final = (channels_routes.mount, messenger_routes.mount, rooms.mount, topics.mount)
ROUTES: Final[tuple[DialectRoute, ...]] = (*channels_routes.ROUTES, *messenger_routes.ROUTES, *topics.ROUTES)


def mounted(*, dev_tokens: bool) -> list[DialectRoute]:
    """The routes that `Dialects.install` adds, without those that refuse unknown paths."""
    return [route for route in ROUTES if dev_tokens or route not in topics.ROUTES]


def tags(routes: Iterable[DialectRoute]) -> list[Tag]:
    """The tags of the routes."""
    return list(dict.fromkeys(route.tag for route in routes))


def token_field(operation: str) -> str | None:
    """The field of an operation's answer that is a token; None if there is none."""
    return {route.name: route.token for route in ROUTES if route.token}.get(operation)
