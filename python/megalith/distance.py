"""How far the hosts of a machine are from each other, as the distances between NUMA nodes that programs read.

What counts is what a cache line of another host's page costs. A page comes whole, so its 64 lines share one
fault: the round trip between the hosts, and serving the fault at both ends. Then they are read from local memory,
as all lines are. Against a page that is here that makes

    ratio = (LOCAL_PAGE_US + FAULT_US + round trip) / LOCAL_PAGE_US

ACPI's SLIT, whose scale the kernel and programs use, has 10 for local memory and ten times the ratio for the rest, up
to 254. Taken literally all hosts more than 131 µs away would be 254, which is most of a data centre, and none would be
nearer than another. Programs compare distances more than they reckon with them, so we keep the order and give up the
scale: **each doubling of the ratio is 10 more**. A rack (30 µs) is then at 43, another one (100 µs) at 54, another
building (1 ms) at 83, another continent (100 ms) at 149; two hosts may come out alike if their costs differ by less
than a fourteenth. All are above 30, Linux's own bound for memory that is far (``RECLAIM_DISTANCE``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

LOCAL: Final = 10
"""From a node to itself."""
NEAREST: Final = 11
FARTHEST: Final = 254
"""255 would say that there is no way there."""
DOUBLING: Final = 10
"""What twice the cost adds."""

LOCAL_PAGE_US: Final = 6.4
"""To read a page of local memory: 64 cache lines of 0.1 µs."""
FAULT_US: Final = 25.0
"""To serve a page fault, without any journey (docs/performance.md)."""
ASSUMED_RTT_US: Final = 100.0
"""Between two hosts neither of which says how far the other is: agents of an earlier version, or no figures in time."""


def distances(rtt_us: Sequence[Sequence[int | None]]) -> list[list[int]]:
    """The distance of each pair of hosts; row ``a`` of ``rtt_us``: the round trips (µs) that host ``a`` knows.

    Both ends of a link measure the same journey, and waiting only adds to it: the shorter one counts.
    """
    numbers = range(len(rtt_us))

    def known(a: int, b: int) -> list[int]:
        found = (row[other] for row, other in ((rtt_us[a], b), (rtt_us[b], a)) if other < len(row))
        return [us for us in found if us is not None]

    return [[LOCAL if a == b else distance(min(known(a, b), default=ASSUMED_RTT_US)) for b in numbers] for a in numbers]


def distance(rtt_us: float) -> int:
    """The distance of two hosts with a round trip of ``rtt_us`` µs."""
    ratio = (LOCAL_PAGE_US + FAULT_US + rtt_us) / LOCAL_PAGE_US
    return min(FARTHEST, max(NEAREST, LOCAL + round(DOUBLING * math.log2(ratio))))
