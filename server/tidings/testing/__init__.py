"""The test kit: a real server in the test's process, clients, and faults on command. See `docs/testing.md`.

The names are imported when they are first used, so that pytest's plugin costs nothing until a test asks for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.testing.kit import Tidings, serve
    from tidings.testing.postgresql import NoServer

__all__ = ["NoServer", "Tidings", "serve"]


def __getattr__(name: str) -> Any:
    if name == "NoServer":
        from tidings.testing.postgresql import NoServer

        return NoServer
    if name in __all__:
        from tidings.testing import kit

        return getattr(kit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
