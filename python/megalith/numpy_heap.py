"""numpy's own allocations in the machine's memory: what ``with m.memory():`` stands for (NEP 49, docs/python.md)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from megalith import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from megalith.shared import SharedSpace

KEPT_MAX: Final = 1 << 30
"""Bytes of memory without an array that stay on the hosts, at most."""

_LAZY: Final = ("ctypeslib", "fft", "ma", "polynomial", "random")
"""Parts of numpy that are imported when they are first used. What they make then is theirs until the process ends."""


@final
class NumpyHeap:
    """Addresses ``[address, address + length)`` of the space, for arrays that numpy allocates.

    ``kept_max``: bytes of memory that stay on the hosts when their arrays have gone, for the next ones (no more than
    `KEPT_MAX`).
    """

    addresses: ClassVar[range] = range(0)
    """Those of this process's heap; there is one at most, as there is one machine."""

    def __init__(self, space: SharedSpace, address: int, length: int, kept_max: int) -> None:
        self._heap = _core.NumpyHeap(space.attachment, address, length, min(kept_max, KEPT_MAX))
        for name in _LAZY:
            importlib.import_module(f"numpy.{name}")
        NumpyHeap.addresses = range(address, address + length)
        space.when_inherited = self._inherit

    @property
    def blocks(self) -> int:
        """How many arrays there are, views not counted."""
        return self._heap.blocks

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, and in this context, numpy allocates here."""
        before = _core.set_numpy_handler(self._heap.handler)
        try:
            yield
        finally:
            if not sys.is_finalizing():  # Then there is no numpy any more.
                _core.set_numpy_handler(before)

    def close(self) -> bool:
        """From now on numpy gets nothing here (MemoryError). Whether no array has anything."""
        return self._heap.close()

    def _inherit(self) -> None:
        """In a child: if it was made inside of the ``with``, its arrays are ordinary ones."""
        self._heap.inherit()
        before = _core.set_numpy_handler(None)
        if before is not self._heap.handler:
            _core.set_numpy_handler(before)


def owner_of(array: NDArray[Any]) -> NDArray[Any] | None:
    """The array that owns the bytes of this one, if numpy has allocated them in the machine's memory.

    ``None`` also where something else than an array is in between, and for arrays of objects, whose bytes mean nothing
    to another process.
    """
    import numpy

    if array.__array_interface__["data"][0] not in NumpyHeap.addresses or array.dtype.hasobject:
        return None
    owner: Any = array
    while isinstance(owner, numpy.ndarray) and owner.base is not None:
        owner = owner.base
    return owner if isinstance(owner, numpy.ndarray) and owner.flags.owndata else None
