"""Which pages an array touches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from megalith.arena import PAGE_BYTES
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

Extent = tuple[int, int]
"""Addresses: of the first byte, and of the first behind the last. Of whole pages where a function says so."""

_BLOCKS_MAX: Final = 1 << 22


def bounds(array: NDArray[Any]) -> Extent:
    """The array's first byte and the one behind its last; the two are the same if it has none."""
    first: int = array.__array_interface__["data"][0]
    if not array.size:
        return first, first
    reaches = [(extent - 1) * stride for extent, stride in zip(array.shape, array.strides, strict=True)]
    return first + sum(min(0, reach) for reach in reaches), first + sum(max(0, r) for r in reaches) + array.itemsize


def page_extents(array: NDArray[Any]) -> list[Extent]:
    """The pages that an array of the machine touches, as extents of whole pages, in order, none adjacent.

    Of a view with gaps that are larger than a page, these are not in it. Raises TypeError for what is no array of
    numpy, ValueError for one that is not in the machine's memory, or that lies there in more than 4 million pieces.
    """
    import numpy

    if not isinstance(array, numpy.ndarray):
        raise TypeError(f"an array of the machine is needed, not {type(array).__name__}")
    first, last = bounds(array)
    space = SharedSpace.mapped()
    if not space.base <= first <= last <= space.base + space.size:
        raise ValueError("the array is not in the machine's memory; make one with m.empty, or copy it with m.array")
    if first == last:
        return []
    # From the inside out: as long as no page is skipped from one block to the next, they are one block.
    block: int = array.itemsize
    outer: list[tuple[int, int]] = []
    for stride, extent in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if not outer and stride <= block + PAGE_BYTES - 1:
            block += (extent - 1) * stride
        else:
            outer.append((stride, extent))
    starts = numpy.array([first])
    for stride, extent in outer:
        if len(starts) * extent > _BLOCKS_MAX:
            raise ValueError(f"the array lies in more than {_BLOCKS_MAX} pieces that are far from each other")
        starts = (starts[:, None] + numpy.arange(extent) * stride).ravel()
    starts.sort()
    begins, ends = starts // PAGE_BYTES, (starts + block - 1) // PAGE_BYTES + 1
    # Blocks may lie in each other's way: a block begins an extent if it begins behind all before it.
    reached = numpy.maximum.accumulate(ends)
    new = numpy.flatnonzero(numpy.concatenate(([True], begins[1:] > reached[:-1])))
    return [
        (int(begins[at]) * PAGE_BYTES, int(reached[until - 1]) * PAGE_BYTES)
        for at, until in zip(new, [*new[1:], len(starts)], strict=True)
    ]


def length(extents: list[Extent]) -> int:
    """Bytes of extents together."""
    return sum(end - begin for begin, end in extents)


def split(extents: list[Extent], shares: list[float]) -> list[list[Extent]]:
    """Extents of whole pages, cut into as many parts as there are shares, in their order and by them.

    >>> split([(0, 8192), (40960, 49152)], [1, 3])
    [[(0, 4096)], [(4096, 8192), (40960, 49152)]]
    """
    pages, total = length(extents) // PAGE_BYTES, sum(shares)
    parts: list[list[Extent]] = [[] for _ in shares]
    waiting = list(reversed(extents))
    given = passed = 0.0
    for part, share in zip(parts, shares, strict=True):
        passed += share
        room = round(pages * passed / total) - int(given)
        given += room
        while room and waiting:
            begin, end = waiting.pop()
            cut = min(end, begin + room * PAGE_BYTES)
            part.append((begin, cut))
            room -= (cut - begin) // PAGE_BYTES
            if cut < end:
                waiting.append((cut, end))
    return parts


def deal(extents: list[Extent], count: int, unit: int) -> list[list[Extent]]:
    """Extents cut at multiples of ``unit`` bytes, and dealt out to ``count`` parts by their place.

    >>> deal([(4096, 16384)], 2, 8192)
    [[(4096, 8192)], [(8192, 16384)]]
    """
    parts: list[list[Extent]] = [[] for _ in range(count)]
    for begin, end in extents:
        at = begin
        while at < end:
            cut = min(end, (at // unit + 1) * unit)
            parts[at // unit % count].append((at, cut))
            at = cut
    return parts


def dense(array: NDArray[Any]) -> Extent:
    """As :func:`bounds`. Raises ValueError for an array with gaps, and as :func:`page_extents`."""
    page_extents(array)
    first, last = bounds(array)
    if last - first != array.nbytes:
        raise ValueError("an array with gaps between its elements cannot be freed in part; free what it is a view of")
    return first, last


def within(array: NDArray[Any]) -> Extent:
    """The whole pages that only this array is in; an extent of no bytes if there are none. Raises as :func:`dense`."""
    first, last = dense(array)
    begin = -(-first // PAGE_BYTES) * PAGE_BYTES
    return begin, max(begin, last // PAGE_BYTES * PAGE_BYTES)
