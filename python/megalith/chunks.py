"""Several calls in one task, for ``Executor.map`` with a chunk size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def chunked(iterables: Iterable[Iterable[Any]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of each call, in lists of ``size``; the last may be shorter.

    >>> list(chunked(["abc", range(9)], 2))
    [[('a', 0), ('b', 1)], [('c', 2)]]
    """
    calls = zip(*iterables, strict=False)
    while chunk := list(islice(calls, size)):
        yield chunk


def run_chunk(fn: Callable[..., T], calls: list[tuple[Any, ...]]) -> list[T]:
    """What a worker does with one.

    >>> run_chunk(max, [(1, 2), (4, 3)])
    [2, 4]
    """
    return [fn(*call) for call in calls]


def flattened(chunks: Iterator[list[T]]) -> Iterator[T]:
    """The results one by one, keeping none that was taken. Closing it closes ``chunks``."""
    try:
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()
    finally:
        if close := getattr(chunks, "close", None):
            close()
