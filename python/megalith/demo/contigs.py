"""What an assembler puts out."""

from __future__ import annotations

import filecmp
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Contigs:
    """Figures of a contigs.fa."""

    count: int
    bases: int
    n50: int
    """Half of all bases are in contigs at least so long."""


def read_contigs(path: Path) -> Contigs:
    """Reads a FASTA file."""
    lengths: list[int] = []
    with path.open("rb") as file:
        for line in file:
            if line.startswith(b">"):
                lengths.append(0)
            elif lengths:
                lengths[-1] += len(line.strip())
    return Contigs(len(lengths), sum(lengths), n50(lengths))


def n50(lengths: list[int]) -> int:
    """The length at which half of the total is reached, longest first; 0 of nothing."""
    total, reached = sum(lengths), 0
    for length in sorted(lengths, reverse=True):
        reached += length
        if reached * 2 >= total:
            return length
    return 0


def identical(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    return filecmp.cmp(one, other, shallow=False)
