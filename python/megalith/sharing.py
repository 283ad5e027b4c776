"""Large arguments that every worker may read, put into the machine's memory once.

An array of the machine travels as its address. One of this process is copied to each worker, unless a :class:`Sharer`
stands in for it: the first task that has it puts a copy into the machine's memory, and that one's address travels, in
this task and in the next. So its bytes go to each host that reads them once, not to each worker with each task.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, final

from megalith.arrays import by_address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from megalith.machines import Machine

SHARE_OF_BUDGET: Final = 4
"""Copies together take no more than this part (a quarter) of the hosts' budgets: what is more travels in full."""


@final
class Sharer:
    """A reducer for :class:`numpy.ndarray` (:mod:`megalith.pickling`) that stands in for large ones.

    Nothing is stood in for before :meth:`begin`, and all copies are freed with the last :meth:`end`. A copy lives no
    longer than what it is a copy of. For any thread.
    """

    def __init__(self, machine: Machine, room: int) -> None:
        self._machine = machine
        self._room = room
        """Bytes that copies may still take."""
        self._copies: dict[int, tuple[weakref.ref[NDArray[Any]], NDArray[Any]]] = {}
        self._lock = threading.RLock()  # Re-entered when the garbage collector ends an array in here.
        self._users = 0
        self._over: int | None = None
        self._writable = False

    def begin(self, over: int | None, *, writable: bool = False) -> None:
        """From now on arrays of ``over`` bytes or more are stood in for; none for ``None``.

        ``writable``: a worker may write its array, and others see that; the original stays as it is.
        """
        with self._lock:
            self._users += 1
            self._over, self._writable = over, writable

    def end(self) -> None:
        """Takes back one :meth:`begin`."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._over = None
                for _, copy in self._copies.values():
                    self._room += copy.nbytes
                self._copies.clear()

    def __call__(self, array: NDArray[Any]) -> Any:
        """What ``__reduce__`` returns, or ``NotImplemented``. Raises as :meth:`megalith.Machine.empty`."""
        found = by_address(array)
        if found is not NotImplemented or self._over is None or array.dtype.hasobject or array.nbytes < self._over:
            return found
        with self._lock:
            stand_in = self._stand_in(array)
        return NotImplemented if stand_in is None else by_address(stand_in)

    def _stand_in(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """The array's copy, or ``None`` if there is no room for one."""
        key = id(array)
        known = self._copies.get(key)
        if known is not None and known[0]() is array:
            return known[1]
        if array.nbytes > self._room:
            return None
        # As scikit-learn's Cython code wants it: in the order that it has.
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        copy = self._machine.array(array.T).T if fortran else self._machine.array(array)
        copy.flags.writeable = self._writable
        self._room -= copy.nbytes
        self._copies[key] = weakref.ref(array, lambda gone: self._forget(key, gone)), copy
        return copy

    def _forget(self, key: int, gone: weakref.ref[NDArray[Any]]) -> None:
        with self._lock:
            known = self._copies.get(key)
            if known is not None and known[0] is gone:
                del self._copies[key]
                self._room += known[1].nbytes
