"""Break what the server depends on (process, disk, database, network, clock), and compare the clients with the log.

Judged each time: every acknowledged message is in the log with the seq and id of its acknowledgement; no seq is
missing or repeated; every reader has the log without a gap, and without a repeat if it sends cursors.
"""

from __future__ import annotations

from tests.campaign.fault import clocks, crashes, disk, networks, postgres, stops
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    options = parser(__doc__)
    options.add_argument("--cycles", type=int, default=0, help="how often the server is killed; 0: by the size")
    return run("faults", areas_of(crashes, stops, disk, postgres, networks, clocks), options.parse_args(arguments))
