"""Break nodes that share one PostgreSQL, without a broker or with Redis, and compare all clients with the log.

Each node is a process with a data directory of its own. Besides what `faults` judges: who was removed gets no later
entry, and what one node acknowledges reaches the connections of the others in time.
"""

from __future__ import annotations

from tests.campaign.nodes import (
    crowds,
    kills,
    partitions,
    redis_faults,
    removals,
    soak,
)
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    options = parser(__doc__)
    options.set_defaults(database="postgresql")
    options.add_argument("--kills", type=int, default=0, help="how often each check of kills kills; 0: by the size")
    options.add_argument("--minutes", type=float, default=0, help="how long the soak takes; 0: by the size, 2 or 30")
    options.add_argument("--pause", type=float, default=0.2, help="mean seconds of a sender between two messages")
    options.add_argument("--wake-up", choices=("on", "off", "redis"), default="off", help="how nodes wake each other")
    areas = areas_of(kills, removals, partitions, crowds, redis_faults, soak)
    return run("cluster", areas, options.parse_args(arguments))
