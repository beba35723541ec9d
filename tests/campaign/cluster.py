"""Break nodes that share one PostgreSQL, without a broker, and compare all clients with the log.

Each node is a process with a data directory of its own. Besides what `faults` judges: who was removed gets no later
entry, sessions end on every node, and what one node acknowledges reaches the connections of the others in time.
"""

from __future__ import annotations

from tests.campaign.nodes import crowds, kills, partitions, removals, sessions
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    options = parser(__doc__)
    options.set_defaults(database="postgresql")
    options.add_argument("--kills", type=int, default=0, help="how many nodes are killed under load; 0: by the size")
    options.add_argument("--wake-up", choices=("on", "off"), default="off", help="whether nodes wake each other")
    areas = areas_of(kills, removals, sessions, partitions, crowds)
    return run("cluster", areas, options.parse_args(arguments))
