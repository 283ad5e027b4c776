"""What of a machine's addresses is in use, at home, where they are given out."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from megalith.arena import Arena, whole_pages
from megalith.arrays import Block, find, give_out
from megalith.numpy_heap import NumpyHeap
from megalith.references import References
from megalith.shared import SharedSpace

_outliving: Final[set[Memory]] = set()
"""Those that numpy has allocated from, until they are closed: its arrays keep the mapping, and know of nothing else."""


@final
class Memory:
    """The space, and what of it is in use. Outlives the machine while arrays do: nothing else comes where they are."""

    def __init__(self, space: SharedSpace) -> None:
        self._space = space
        self._arena = Arena(space.base, space.size)
        self._lock = threading.Lock()
        self._returned: deque[tuple[int, int]] = deque()
        """Ranges that are free. A finalizer may run in the middle of anything, even :meth:`block`: it takes no lock."""
        self._blocks: set[weakref.finalize[..., Any]] = set()
        self._heap: NumpyHeap | None = None
        self._closing = False
        self._on_empty: Callable[[], None] | None = None
        self.references = References(self.block, find)
        """Those that workers hold."""

    @property
    def count(self) -> int:
        """Blocks in use."""
        return sum(finalizer.alive for finalizer in tuple(self._blocks)) + self.numpy_arrays

    def heap(self, kept_max: int) -> NumpyHeap:
        """Where numpy's own allocations come from, made when first asked for. Half of the addresses are its own.

        ``kept_max``: see :class:`megalith.numpy_heap.NumpyHeap`. Raises MemoryError if they are not free.
        """
        with self._lock:
            if self._heap is None:
                length = self._space.size // 2
                self._heap = NumpyHeap(self._space, self._arena.take(length), length, kept_max)
                self._space.when_wanted = self.notice
                _outliving.add(self)
            return self._heap

    def block(self, length: int) -> Block:
        """New bytes. They are freed when no array has them any more."""
        size = whole_pages(length)
        with self._lock:
            while self._returned:
                self._arena.give(*self._returned.popleft())
            self._blocks = {finalizer for finalizer in self._blocks if finalizer.alive}
            address = self._arena.take(size)
            block = Block(address, length)
            give_out(block)
            finalizer = weakref.finalize(block, self._free, address, size)
            # The kernel takes it all back when the process ends.
            finalizer.atexit = False
            self._blocks.add(finalizer)
        return block

    def _free(self, address: int, size: int) -> None:
        try:
            self._space.discard(address, size)
        except OSError:
            # The machine has ended: the addresses are nobody's any more.
            if self._closing:
                self._release()
        else:
            self._returned.append((address, size))
        if (act := self._on_empty) is not None and not self.count:
            act()

    @property
    def blocks(self) -> list[Block]:
        """Those in use that numpy has not allocated itself."""
        return [found[0] for finalizer in tuple(self._blocks) if (found := finalizer.peek()) is not None]

    @property
    def numpy_arrays(self) -> int:
        """How many arrays there are that numpy has allocated itself."""
        return self._heap.blocks if self._heap else 0

    def when_empty(self, act: Callable[[], None]) -> None:
        """``act`` is called, perhaps at once, when no array has any of it; in whatever thread, and perhaps again."""
        self._on_empty = act
        self.notice()

    def notice(self) -> None:
        """Sees whether the last array has gone: those that numpy has allocated itself say nothing when they go."""
        if (act := self._on_empty) is not None and not self.count:
            act()
        if self._closing:
            self._release()

    def close(self) -> None:
        """The machine and its workers have ended: addresses are given back once no array is left that points there."""
        self._on_empty = None
        self.references.drop()
        if self.count:
            # Those that only a cycle refers to, such as a traceback's.
            gc.collect()
        self._closing = True
        self._release()

    def _release(self) -> None:
        if self._heap is not None:
            self._heap.close()
        if not self.count:
            self._space.close()
            _outliving.discard(self)
