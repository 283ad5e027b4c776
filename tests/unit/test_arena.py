"""Addresses given out and taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megalith.arena import PAGE_BYTES, REGION_BYTES, Arena, whole_pages

BASE = 0x2000_0000_0000
SIZE = 64 * REGION_BYTES


def test_whole_pages_hold_what_they_must() -> None:
    assert [whole_pages(length) for length in (0, 1, 4096, 4097)] == [4096, 4096, 4096, 8192]


@given(st.lists(st.one_of(st.integers(1, 8 * REGION_BYTES), st.floats(0, 1)), max_size=60))
def test_ranges_are_disjoint_and_come_back(steps: list[int | float]) -> None:
    arena = Arena(BASE, SIZE)
    taken: list[tuple[int, int]] = []
    for step in steps:
        if isinstance(step, int):
            length = whole_pages(step)
            try:
                start = arena.take(length)
            except MemoryError:
                continue
            assert start >= BASE
            assert start + length <= BASE + SIZE
            assert start % (REGION_BYTES if length >= REGION_BYTES else PAGE_BYTES) == 0
            assert all(start + length <= other or other + size <= start for other, size in taken)
            taken.append((start, length))
        elif taken:
            arena.give(*taken.pop(int(step * (len(taken) - 1))))
    for start, length in taken:
        arena.give(start, length)
    assert arena.take(SIZE) == BASE, "in one piece again"
    with pytest.raises(MemoryError):
        arena.take(PAGE_BYTES)
