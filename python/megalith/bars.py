"""A progress bar for what takes a while, on terminals and in notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def progress(
    items: Iterable[T], *, total: float | None = None, description: str = "", show: bool | None = None
) -> Iterator[T]:
    """The items, one after the other, with a bar of how many there were.

    Args:
        items: such as what ``executor.map`` or :func:`concurrent.futures.as_completed` returns.
        total: how many there are, where ``items`` has no length; without it the bar shows no end.
        description: in front of the bar.
        show: whether there is a bar; where not said, on a terminal (standard error) and in a notebook alone.

    >>> import megalith
    >>> with megalith.machine(hosts=2, memory_per_host="32M") as m, m.executor() as executor:
    ...     [square for square in progress(executor.map(pow, range(4), [2] * 4), total=4)]
    [0, 1, 4, 9]
    """
    console = Console(stderr=True)
    if total is None and isinstance(items, Sized):
        total = len(items)
    wanted = (console.is_terminal or console.is_jupyter) if show is None else show
    columns = [TextColumn("{task.description}")] if description else []
    with Progress(
        *columns, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not wanted,
    ) as bar:  # fmt: skip
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)
