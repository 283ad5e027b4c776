"""Which blocks a worker has, and what of that its home does not know yet (megalith.references).

Pure: no stream, no threads. The end of a block may come at any time, in any thread, in the middle of anything here, as
the garbage collector likes: :meth:`Holdings._ended` takes no lock and touches one queue. All else is for one thread at
a time, and what :meth:`Holdings.news` returns must be sent before anybody else is let in.
"""

from __future__ import annotations

import queue
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, final


@final
class Holdings:
    """Blocks, by their serial numbers; there is one object at most for each."""

    def __init__(self) -> None:
        self._blocks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._told: set[int] = set()
        """What home keeps for us."""
        self._new: deque[int] = deque()
        """Came with a task, so home keeps them until that is answered."""
        self._gone: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Told, and ended. A queue that may be entered again in the middle of itself."""
        self._pinned: Counter[int] = Counter()
        """Asked for, or in an answer on its way: not to be let go of."""
        self._late: set[int] = set()
        """Gone while pinned."""

    def get(self, serial: int) -> Any:
        """The block, or ``None`` if it is not here. For any thread."""
        return self._blocks.get(serial)

    @property
    def is_known(self) -> bool:
        """Whether home keeps anything for us. For any thread."""
        return bool(self._told)

    def arrive(self, serial: int, make: Callable[[], Any]) -> Any:
        """A block that a task has brought."""
        block = self._blocks.get(serial)
        if block is None:
            block = self._keep(serial, make)
            self._new.append(serial)
        return block

    def grant(self, serial: int, make: Callable[[], Any]) -> Any:
        """A block that home keeps for us from now on, because we have asked."""
        self._told.add(serial)
        block = self._blocks.get(serial)
        return self._keep(serial, make) if block is None else block

    def pin(self, serials: Iterable[int]) -> None:
        """They are not let go of before as many :meth:`unpin`."""
        self._pinned.update(serials)

    def unpin(self, serials: Iterable[int]) -> None:
        """Takes back one :meth:`pin`."""
        for serial in serials:
            self._pinned[serial] -= 1
            if not self._pinned[serial]:
                del self._pinned[serial]
                if serial in self._late:
                    self._late.discard(serial)
                    self._gone.put(serial)

    def news(self) -> tuple[list[int], list[int]]:
        """What home shall keep from now on, and what it need not keep any more."""
        held, let_go = [], []
        while self._new:
            serial = self._new.popleft()
            if serial in self._told:
                continue
            # Told first, then looked at: if it ends in between, it is found here; if it does afterwards, in the queue.
            self._told.add(serial)
            if serial in self._blocks:
                held.append(serial)
            else:
                self._told.discard(serial)
        for serial in self._ended_lately():
            if serial in self._blocks or serial not in self._told:
                continue  # It has come again meanwhile; or that is known.
            if self._pinned[serial]:
                self._late.add(serial)
                continue
            self._told.discard(serial)
            let_go.append(serial)
        return held, let_go

    def wait(self) -> None:
        """Until there may be news of what has ended. For any thread."""
        self._gone.put(self._gone.get())

    def _ended_lately(self) -> Iterator[int]:
        with suppress(queue.Empty):
            while True:
                yield self._gone.get_nowait()

    def _keep(self, serial: int, make: Callable[[], Any]) -> Any:
        block = make()
        self._blocks[serial] = block
        weakref.finalize(block, self._ended, serial).atexit = False
        return block

    def _ended(self, serial: int) -> None:
        if serial in self._told:
            self._gone.put(serial)
