"""Where tasks should run: where the arrays among their arguments were used last.

Pages go to whoever touches them, and an executor knows who has touched what: it handed out the tasks. So what is
remembered is which host was last handed a task with a place of the machine's memory, at some places of each array.
It costs microseconds a task and no message. It is a guess (another thread may have used the array since), and only
says where a task would rather run: a host that has no room keeps none waiting (:mod:`megalith.backlog`).

An array that several unfinished tasks have is *shared* and says nothing about any of them.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from megalith.extents import Extent, bounds
from megalith.shared import SharedSpace

GRANULE_BYTES: Final = 64 << 10
PLACES_MAX: Final = 64
"""Of an array so many are looked at, at multiples of some power of two of granules: so parts that are cut in another
way share some of them."""
ARRAYS_MAX: Final = 32
"""Of a task."""
REMEMBERED_MAX: Final = 1 << 18
"""Places. Those that were used longest ago are forgotten first."""


@final
class Near:
    """What is remembered of one machine. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: OrderedDict[int, str] = OrderedDict()
        self._tasks: Counter[Extent] = Counter()
        """Unfinished tasks that have an array with these bytes."""

    def begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Extent]:
        """A task is submitted: what :meth:`end` is to be told when it is done."""
        found = list(_extents(args, kwargs))
        if found:
            with self._lock:
                self._tasks.update(found)
        return found

    def end(self, begun: list[Extent]) -> None:
        """A task is done, or was not submitted. Not twice."""
        if begun:
            with self._lock:
                self._tasks.subtract(begun)
                for extent in begun:
                    if self._tasks[extent] <= 0:
                        del self._tasks[extent]
            begun.clear()

    def prefers(self, _fn: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """The host that was last handed most of what the arguments name, byte by byte; ``None`` if that is unknown."""
        found = list(_extents(args, kwargs))
        if not found:
            return None
        bytes_at: Counter[str] = Counter()
        with self._lock:
            for begin, end in self._own(found):
                places = _places(begin, end)
                known = [self._last[place] for place in places if place in self._last]
                for host in known:
                    bytes_at[host] += (end - begin) // len(places)
        return bytes_at.most_common(1)[0][0] if bytes_at else None

    def used(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], host: str) -> None:
        """A worker on that host was handed a task with these arguments."""
        found = list(_extents(args, kwargs))
        if found:
            with self._lock:
                self._note(self._own(found), host)

    def note(self, extents: Iterable[Extent], host: str) -> None:
        """These bytes are on that host."""
        with self._lock:
            self._note(extents, host)

    def _own(self, extents: list[Extent]) -> list[Extent]:
        """Those that no other unfinished task has."""
        return [extent for extent in extents if self._tasks[extent] <= 1]

    def _note(self, extents: Iterable[Extent], host: str) -> None:
        for begin, end in extents:
            for place in _places(begin, end):
                self._last[place] = host
                self._last.move_to_end(place)
        while len(self._last) > REMEMBERED_MAX:
            self._last.popitem(last=False)


def _places(begin: int, end: int) -> range:
    """The granules of an extent that are looked at."""
    first, last = begin // GRANULE_BYTES, (end - 1) // GRANULE_BYTES
    step = 1
    while (last - first) // step >= PLACES_MAX:
        step *= 2
    from_step = -(-first // step) * step
    return range(from_step, last + 1, step) if from_step <= last else range(first, first + 1)


def _extents(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[Extent]:
    """The bytes of arrays of the machine among a call's arguments, and of those in their lists and tuples."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return
    space: Extent | None = None
    left = ARRAYS_MAX
    waiting: list[tuple[Any, int]] = [(value, 2) for value in (*args, *kwargs.values())]
    while waiting and left:
        value, depth = waiting.pop()
        if isinstance(value, numpy.ndarray):
            if space is None:
                mapped = SharedSpace.mapped()
                space = mapped.base, mapped.base + mapped.size
            begin, end = bounds(value)
            if space[0] <= begin < end <= space[1]:
                left -= 1
                yield begin, end
        elif depth and type(value) in {list, tuple}:
            waiting += [(item, depth - 1) for item in value[:ARRAYS_MAX]]
