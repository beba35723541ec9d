"""`python -m tests.conformance socketio|engineio --port 3000`: serve the applications of the official suites.

The transport is that of Tidings; the suites define only the reactions to messages.
"""

from __future__ import annotations

import argparse
import asyncio

import uvloop

from tests.conformance.servers import APPLICATIONS, serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("protocol", choices=sorted(APPLICATIONS))
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=3000)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(args.protocol, args.host, args.port))


if __name__ == "__main__":
    main()
