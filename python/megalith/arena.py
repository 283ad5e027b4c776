"""Addresses of a shared space, given out at home.

First fit in a sorted list of free ranges, whole pages, neighbours joined when they come back. Ranges of a region
(2 MiB, of which one host keeps the directory) or more begin at one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, final

PAGE_BYTES: Final = 4096
REGION_BYTES: Final = 2 << 20


def whole_pages(length: int) -> int:
    """The least number of bytes that is whole pages and holds ``length`` bytes; at least one page."""
    return max(1, -(-length // PAGE_BYTES)) * PAGE_BYTES


@final
class Arena:
    """Which addresses of ``[base, base + size)`` are free. Not for several threads at a time."""

    def __init__(self, base: int, size: int) -> None:
        self._free: list[tuple[int, int]] = [(base, size)]
        """Start and length, in the order of addresses, no two adjacent."""

    def take(self, length: int) -> int:
        """An address from which ``length`` bytes (whole pages) are free; they are not any more.

        Raises MemoryError if no free range is long enough.
        """
        alignment = REGION_BYTES if length >= REGION_BYTES else PAGE_BYTES
        for at, (start, free) in enumerate(self._free):
            address = -(-start // alignment) * alignment
            if address + length <= start + free:
                ends = ((start, address - start), (address + length, start + free - address - length))
                self._free[at : at + 1] = [end for end in ends if end[1]]
                return address
        raise MemoryError(f"no {length} bytes of the machine's addresses are free in one piece")

    def give(self, address: int, length: int) -> None:
        """Takes a range back that :meth:`take` gave."""
        at = bisect_left(self._free, (address, 0))
        if at < len(self._free) and self._free[at][0] == address + length:
            length += self._free.pop(at)[1]
        if at and sum(self._free[at - 1]) == address:
            address, before = self._free.pop(at - 1)
            length, at = length + before, at - 1
        self._free.insert(at, (address, length))
