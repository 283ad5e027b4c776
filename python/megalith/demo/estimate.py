"""How long a large assembly will take, foretold from a small one.

    native  = sample's native time × (bases / sample's bases) ** 1.15
    ours    = native × (sample's time on Megalith / sample's native time)

velvet's trees deepen with the number of k-mers, so its time grows somewhat faster than the reads: the plasmids (12.5
Mbases) took 14.3 s of processor time, E. coli at coverage 20 (92.8 Mbases) 143.9 s, which makes the exponent 1.15.

It is a lower bound: a small genome packs better, so fewer of its faults leave home. E. coli at coverage 10 took 1.6
times the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from megalith.render import format_seconds

_GROWTH: Final = 1.15


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds, each the best guess."""

    native_s: float
    megalith_s: float
    swap_limit_s: float

    @property
    def total_s(self) -> float:
        return self.native_s + self.megalith_s + min(self.swap_limit_s, 10 * self.megalith_s)

    def __str__(self) -> str:
        parts = [f"natively about {format_seconds(self.native_s)}"]
        if self.swap_limit_s:
            parts.append(f"under swap at most {format_seconds(min(self.swap_limit_s, 10 * self.megalith_s))}")
        parts.append(f"on Megalith {format_seconds(self.megalith_s)}")
        between = f"{format_seconds(self.total_s)} to {format_seconds(2 * self.total_s)}"
        return f"this will take {between}: {', '.join(parts)} or up to twice that"


def estimate(
    *, bases: int, sample_bases: int, sample_native_s: float, sample_megalith_s: float, swap_limit_s: float
) -> Estimate:
    """Scales a small run up to a large one."""
    native_s = sample_native_s * (bases / sample_bases) ** _GROWTH
    return Estimate(native_s, native_s * sample_megalith_s / sample_native_s, swap_limit_s)
