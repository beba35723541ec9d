"""The command `tidings-chat`, also as `python -m tidings_chat`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("aiohttp", "babel", "httpx", "prompt_toolkit", "rich", "socketio")


def main() -> int:
    """Run the client, or say how to install the extra that it needs."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"tidings-chat: not installed: {', '.join(missing)}. The client is an extra:"
            ' in a checkout of Tidings, make setup, or pip install ".[client]"',
            file=sys.stderr,
        )
        return 1
    from tidings_chat.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
