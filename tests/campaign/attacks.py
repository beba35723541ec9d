"""Attack the server at every door: tokens, packets, frames, requests, floods and what members may not do.

Each check is a promise of the documentation, tried from outside. Costs are judged by the server's processor time, its
memory, its descriptors, and what an honest neighbour waits meanwhile, counted in the server's processor time too, so
that other work on the machine does not matter. Attackers come from many addresses of 127.0.0.0/8.
"""

from __future__ import annotations

from tests.campaign.attack import (
    costs,
    crowds,
    exposure,
    floods,
    frames,
    heads,
    packets,
    page,
    requests,
    rights,
    tokens,
)
from tests.campaign.support.lab import areas_of, parser, run


def main(arguments: list[str]) -> int:
    options = parser(__doc__).parse_args(arguments)
    areas = areas_of(tokens, frames, packets, exposure, rights, requests, heads, costs, floods, crowds, page)
    return run("attacks", areas, options)
