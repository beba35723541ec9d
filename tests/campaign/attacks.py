"""Attack the server with floods, before and after sign-in.

Each check tries a promise of the documentation from outside. Costs are the server's processor time, memory and
descriptors, and the wait of an honest neighbour, also counted in the server's processor time, so that other work on
the machine does not matter. Attackers use many addresses of 127.0.0.0/8.
"""

from __future__ import annotations

from tests.campaign.attack import crowds, floods
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    options = parser(__doc__).parse_args(arguments)
    areas = areas_of(floods, crowds)
    return run("attacks", areas, options)
