"""Entry point of the `tidings` command, also as `python -m tidings`; prepares the process for fast imports.

Clients wait for the start of a restarted server, and most of the start is imports.
"""

from __future__ import annotations

import gc
import sys

UNUSED = ("aiohttp", "requests", "rich", "websocket")
"""Packages that engineio and structlog import if they are installed, and that the server does not use: HTTP clients,
and coloured tracebacks. Tests and the terminal client depend on them.

An application may use them, so with `--app` they are not hidden.
"""


def main() -> int:
    """Entry point; returns the exit status."""
    for name in () if _has_application(sys.argv[1:]) else UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # makes an import of it raise ImportError
    gc.disable()  # imported objects stay: collections during the imports would be wasted
    from tidings.cli import commands as cli

    gc.freeze()
    gc.enable()
    return cli.main()


def _has_application(arguments: list[str]) -> bool:
    """Whether the arguments contain `--app`; argparse also accepts `--ap` and `--app=…`."""
    return any(argument.split("=")[0] in ("--a", "--ap", "--app") for argument in arguments)


if __name__ == "__main__":
    sys.exit(main())
