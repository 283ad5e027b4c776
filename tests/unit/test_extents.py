"""Extents of pages, cut and dealt out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megalith.arena import PAGE_BYTES
from megalith.extents import Extent, deal, length, split

PIECES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=6)


def extents_of(pieces: list[tuple[int, int]]) -> list[Extent]:
    """From gaps and lengths in pages."""
    at, found = 0, []
    for gap, pages in pieces:
        begin = (at + gap) * PAGE_BYTES
        found.append((begin, begin + pages * PAGE_BYTES))
        at += gap + pages
    return found


def pages(extents: list[Extent]) -> list[int]:
    return [page for begin, end in extents for page in range(begin // PAGE_BYTES, end // PAGE_BYTES)]


@given(PIECES, st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
def test_parts_are_as_large_as_their_shares(pieces: list[tuple[int, int]], shares: list[float]) -> None:
    extents = extents_of(pieces)
    parts = split(extents, shares)
    assert [page for part in parts for page in pages(part)] == pages(extents)
    total = length(extents) / PAGE_BYTES
    for part, share in zip(parts, shares, strict=True):
        assert abs(length(part) / PAGE_BYTES - total * share / sum(shares)) <= 1


@given(PIECES, st.integers(1, 5), st.integers(1, 30))
def test_dealt_out_by_place(pieces: list[tuple[int, int]], count: int, unit: int) -> None:
    extents = extents_of(pieces)
    parts = deal(extents, count, unit * PAGE_BYTES)
    assert sorted(page for part in parts for page in pages(part)) == pages(extents)
    for place, part in enumerate(parts):
        assert {page // unit % count for page in pages(part)} <= {place}
        assert all(a[1] <= b[0] for a, b in pairwise(part))
