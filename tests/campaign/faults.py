"""Break what the server stands on (process, disk, database, network, clock), and hold the clients' story to the log.

Judged each time: every acknowledged message is in the log with the seq and id of its acknowledgement; no seq is
missing, nothing is there twice; every reader has the log without a gap, and without a repeat if it brings cursors.
"""

from __future__ import annotations

from tests.campaign.fault import clocks, crashes, disk, networks, postgres, stops
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    made = parser(__doc__)
    made.add_argument("--cycles", type=int, default=0, help="how often the server is killed; 0: by the size")
    return run("faults", areas_of(crashes, stops, disk, postgres, networks, clocks), made.parse_args(arguments))
