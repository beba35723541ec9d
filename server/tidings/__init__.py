"""Tidings: a Socket.IO-compatible message server. Once a message is acknowledged, everyone gets it.

`create_app` is what an application imports; the contract (`tidings.contract`) can be imported without the server's
dependencies, so `create_app` is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.app import create_app

__all__ = ["__version__", "create_app"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from tidings.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
