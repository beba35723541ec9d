"""How far the search index falls behind a sender without pause, and how long it takes to catch up.

One sender keeps 64 messages of 15 words in flight in a room of two, on SQLite, for some seconds. Both metrics of the
index are read once a second, from then until the index has caught up.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.generator.engine import CACHE
from bench.load import message_to, sender
from bench.scenarios import running
from bench.servers import Server, Tidings, World

WINDOW = 64
WORDS = " ".join(f"word{n}" for n in range(14))
"""They follow the generator's own word, which is another one in each message."""
STAMP = 32
"""Characters of that word."""
POLL_S = 1.0
_METRIC = re.compile(r"^tidings_search_(rooms_behind|behind_seconds) (\S+)$", re.MULTILINE)


def behind(server: Server) -> tuple[float, float]:
    """Rooms that are behind, and for how many seconds the oldest of them has been."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
        metrics = dict(_METRIC.findall(answer.read().decode()))
    return float(metrics["rooms_behind"]), float(metrics["behind_seconds"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search_lag", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="to send for (default: 30)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds to wait for the index (default: 600)")
    parser.add_argument("--directory", type=Path, default=CACHE, help="for the database (default: .cache/bench)")
    args = parser.parse_args(argv)
    args.directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="search-", dir=args.directory) as directory,
        running(Tidings, World(rooms=[[0, 1]]), Path(directory)) as (server, load),
    ):
        room, begin, end, _ = message_to(0)
        load.senders([sender(0, WINDOW, [[room, begin, f" {WORDS}{end}", STAMP]])])
        result: dict[str, float] = {}
        sending = threading.Thread(target=lambda: result.update(load.measure(0.0, args.seconds)))
        sending.start()
        longest, caught_up = 0.0, False
        while sending.is_alive():
            sending.join(POLL_S)
            longest = max(longest, behind(server)[1])
        if not result:
            return 1
        last_sent = time.monotonic()
        while not caught_up and time.monotonic() - last_sent < args.limit:
            rooms, seconds = behind(server)
            longest, caught_up = max(longest, seconds), rooms == 0
            time.sleep(0 if caught_up else POLL_S / 4)
        waited = time.monotonic() - last_sent
    acks, seconds = result["acks"], result["seconds"]
    print(f"{acks:,.0f} messages, {acks / seconds:,.0f} a second for {seconds:.0f} s")
    print(f"tidings_search_behind_seconds rose to {longest:.0f}")
    print(f"caught up {waited:.0f} s after the last message" if caught_up else f"not caught up after {waited:.0f} s")
    return 0 if caught_up else 1


if __name__ == "__main__":
    sys.exit(main())
