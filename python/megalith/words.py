"""Words of the machine's memory that all its processes change atomically: what :mod:`megalith.sync` is made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from megalith.arrays import by_address
from megalith.exceptions import AgentError
from megalith.shared import SharedSpace

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS: Final = 64
PAUSE_MIN_S: Final = 20e-6
PAUSE_MAX_S: Final = 0.02
PAUSE_SHARE: Final = 8
"""Who has waited for a time looks again after an eighth of it, within the two bounds above."""


@final
class Words:
    """An array of 64-bit words, each index a word. It travels as its address, and keeps its memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        """``array``: contiguous, of ``uint64``, in the machine's memory; raises RuntimeError if it is elsewhere."""
        if by_address(array) is NotImplemented:
            raise RuntimeError("what synchronises a machine's processes is passed to its workers alone")
        self.array = array
        self._address: int = array.__array_interface__["data"][0]
        self._attachment = SharedSpace.mapped().attachment

    def __reduce__(self) -> tuple[type[Words], tuple[NDArray[Any]]]:
        return Words, (self.array,)

    def load(self, index: int) -> int:
        """Its value. Raises AgentError once the machine has ended or is closed, as all methods do."""
        try:
            return self._attachment.load(self._address + 8 * index)
        except OSError as error:
            raise _ended(error) from None

    def store(self, index: int, value: int) -> None:
        """Gives it a value."""
        try:
            self._attachment.store(self._address + 8 * index, value)
        except OSError as error:
            raise _ended(error) from None

    def add(self, index: int, more: int) -> int:
        """Adds to it, modulo 2**64; its value before."""
        try:
            return self._attachment.fetch_add(self._address + 8 * index, more % (1 << BITS))
        except OSError as error:
            raise _ended(error) from None

    def swap_if(self, index: int, current: int, new: int) -> bool:
        """Gives it the value ``new`` if it has ``current``; whether it had."""
        try:
            return self._attachment.compare_exchange(self._address + 8 * index, current, new) == current
        except OSError as error:
            raise _ended(error) from None


def _ended(error: OSError) -> AgentError:
    return AgentError(f"what synchronises processes went with its machine, which has ended ({error.strerror})")


def wait_for(condition: Callable[[], bool], timeout_s: float | None) -> bool:
    """Waits until ``condition`` is true; ``False`` if it is not after ``timeout_s`` (``None``: until the machine ends).

    It looks, and looks again, at memory that is in this host's cache until somebody writes it: so waiting costs no
    message, a release needs to know of no waiter, and none can be missed. The pauses grow with the time that it has
    waited.
    """
    if condition():
        return True
    began_s = time.monotonic()
    while True:
        waited_s = time.monotonic() - began_s
        if timeout_s is not None and waited_s >= timeout_s:
            return False
        pause_s = min(max(waited_s / PAUSE_SHARE, PAUSE_MIN_S), PAUSE_MAX_S)
        if timeout_s is not None:
            pause_s = min(pause_s, timeout_s - waited_s)
        time.sleep(pause_s)
        if condition():
            return True
